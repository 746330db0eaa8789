from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from changenet.data.lights import PictureLayout
from changenet.description import ModelDescription, Threshold
from changenet.errors import EngineError, SpecError
from changenet.spec import Experiment, load_spec
from ray_jobs.threshold_choice import choose_threshold
from ray_jobs.trained import TrainedNetwork

STORED = Threshold(0.3, "recall", 0.99, (0.97, 1.0))
FITTED = Threshold(0.77, "recall", 0.5)


def experiment(folder: Path, spec: dict[str, Any]) -> Experiment:
    (folder / "spec.yaml").write_text(yaml.safe_dump({"task": "classify", **spec}))
    return load_spec(folder / "spec.yaml").experiment


def description(**fields: Any) -> ModelDescription:
    network = {"difference_module": fields.pop("difference_module", "learnable"), "backbone": "fan_tiny_8_p4_hybrid"}
    return ModelDescription(**{"network": network, "layout": PictureLayout(), "threshold": STORED, **fields})


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, STORED),
        ({"evaluate": {"threshold": {"target": 0.99}}}, STORED),
        ({"evaluate": {"threshold": {"policy": "recall"}}}, STORED),
        ({"evaluate": {"threshold": {"policy": "recall", "target": 0.5}}}, FITTED),
        ({"model": {"classify": {"eval_margin": 0.4}}}, Threshold(0.4, "margin")),
        ({"model": {"classify": {"eval_margin": 0.4}}, "evaluate": {"threshold": {"policy": "recall"}}}, STORED),
        ({"evaluate": {"threshold": {"policy": "margin"}}}, Threshold(0.5, "margin")),
    ],
)
def test_what_is_written_beats_what_is_stored(tmp_path: Path, spec: dict[str, Any], expected: Threshold) -> None:
    found = choose_threshold(experiment(tmp_path, spec), description(), fit=lambda *_: FITTED)
    assert found == expected


def test_a_margin_policy_keeps_the_margin_of_training(tmp_path: Path) -> None:
    stored = Threshold(0.2, "margin")
    spec = {"evaluate": {"threshold": {"policy": "margin"}}}
    assert choose_threshold(experiment(tmp_path, spec), description(threshold=stored), fit=pytest.fail) == stored


def test_a_distance_falls_back_to_half_of_its_training_margin(tmp_path: Path) -> None:
    trained = description(difference_module="euclidean", spec={"model": {"classify": {"train_margin_euclid": 3.0}}})
    spec = {"evaluate": {"threshold": {"policy": "margin"}}}
    assert choose_threshold(experiment(tmp_path, spec), trained, fit=pytest.fail) == Threshold(1.5, "margin")


def test_a_margin_above_one_means_nothing_to_a_probability(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = {"model": {"classify": {"eval_margin": 2.0}}}
    with caplog.at_level(logging.WARNING):
        found = choose_threshold(experiment(tmp_path, spec), description(), fit=pytest.fail)
    assert found == Threshold(0.5, "margin")
    assert "0.5 is used" in caplog.text


@pytest.fixture
def split(tmp_path: Path) -> dict[str, str]:
    random = np.random.default_rng(2)
    for kind in ("test", "golden"):
        (tmp_path / "images" / kind).mkdir(parents=True)
        pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / kind / "R1.png")
    (tmp_path / "pairs.csv").write_text("input_path,golden_path,label,object_name\ntest,golden,PASS,R1\n")
    return {"csv_path": str(tmp_path / "pairs.csv"), "images_dir": str(tmp_path / "images")}


def test_pictures_are_prepared_as_the_network_was_trained(
    tmp_path: Path, checkpoint_file: str, split: dict[str, str]
) -> None:
    spec = {"dataset": {"classify": {"test_dataset": split}}, "evaluate": {"checkpoint": checkpoint_file}}
    network = TrainedNetwork(experiment(tmp_path, spec), "evaluate")
    source = network.rows("test")  # the suffix .png is the checkpoint's as well
    assert source.read(0)[0].shape == network.description.layout.shape
    assert network.threshold() == network.description.threshold
    with pytest.raises(SpecError, match=r"infer_dataset\.csv_path"):
        network.rows("infer")


def test_a_tao_checkpoint_is_evaluated_with_its_spec(
    tmp_path: Path,
    tao_spec: dict[str, Any],
    write_tao: Callable[..., str],
    split: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tao_spec["dataset"]["classify"]["test_dataset"] = split
    spec = {**tao_spec, "evaluate": {"checkpoint": write_tao("any name")}}
    network = TrainedNetwork(experiment(tmp_path, spec), "evaluate")
    assert network.rows("test").read(0)[0].shape == (3, 32, 32)
    with caplog.at_level(logging.WARNING):
        assert network.threshold() == Threshold(0.5, "margin")
    assert "no fitted threshold" in caplog.text


def test_a_recall_that_nobody_fitted_needs_a_validation_set(tmp_path: Path, checkpoint_file: str) -> None:
    spec = {"evaluate": {"checkpoint": checkpoint_file, "threshold": {"target": 0.5}}}
    with pytest.raises(SpecError, match="no validation set"):
        TrainedNetwork(experiment(tmp_path, spec), "evaluate").threshold()


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"inference\.checkpoint"):
        TrainedNetwork(experiment(tmp_path, {}), "inference")


@pytest.mark.parametrize("action", ["evaluate", "inference"])
def test_what_is_named_as_a_tensorrt_engine_runs_in_nothing_else(
    tmp_path: Path, bundle_folder: Path, action: Any
) -> None:
    foreign = tmp_path / "model.plan"
    foreign.write_bytes(b"from trtexec")
    for path, words in ((bundle_folder, "no TensorRT engine in this bundle"), (foreign, "this is something else")):
        with pytest.raises(EngineError, match=words):
            TrainedNetwork(experiment(tmp_path, {action: {"trt_engine": str(path)}}), action)
    both = {"trt_engine": str(foreign), "checkpoint": str(bundle_folder)}
    assert TrainedNetwork(experiment(tmp_path, {action: both}), action).engine == "onnxruntime"
