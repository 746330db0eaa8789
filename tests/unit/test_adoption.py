from __future__ import annotations

import argparse
import copy
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from changenet import factory
from changenet.adoption import SpecDescribes
from changenet.agreement import contradictions
from changenet.data.lights import PictureLayout
from changenet.description import ModelDescription, Threshold
from changenet.errors import CheckpointError, SpecError
from changenet.inspection import Inspector
from changenet.model.network import ChangeNet
from changenet.model.tao_checkpoint import load_tao_state, strip_training_module
from changenet.model.tao_file import TaoCheckpoint
from changenet.spec import Experiment, load_spec
from changenet.training.checkpoint import load_checkpoint

Spec = dict[str, Any]
Write = Callable[..., str]


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[..., Experiment]:
    def load(spec: Spec, *overrides: str) -> Experiment:
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump({"task": "classify", **spec}))
        return load_spec(tmp_path / "spec.yaml", overrides).experiment

    return load


def keys(problems: Any) -> set[str]:
    return {problem.where for problem in problems}


def test_a_tao_checkpoint_needs_a_spec_and_gives_its_network(
    experiment: Any, tao_spec: Spec, tao_state: Any, write_tao: Write
) -> None:
    path = write_tao("renamed.tlt")
    with pytest.raises(CheckpointError, match=f"changenet convert --from {path}"):
        Inspector.load(path)
    spec = experiment(tao_spec, "model.classify.eval_margin=0.3")
    inspector = Inspector.load(path, describe=SpecDescribes(spec, path))
    assert inspector.description.threshold == Threshold(0.3, "margin")
    network = ChangeNet(**factory.network_arguments(spec)).eval()
    load_tao_state(network, strip_training_module(tao_state))
    test, golden = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = network.score(network(network.normalise(test), network.normalise(golden)))
    assert inspector.score_arrays(test.numpy(), golden.numpy()) == pytest.approx(expected.numpy(), abs=1e-6)
    assert expected.unique().numel() == 4


@pytest.mark.parametrize(("margin", "value"), [([], 0.5), (["model.classify.eval_margin=2.0"], 0.5)])
def test_the_threshold_of_a_tao_checkpoint_is_the_margin(
    experiment: Any, tao_spec: Spec, write_tao: Write, margin: list[str], value: float
) -> None:
    path = write_tao()
    checkpoint = load_checkpoint(path, describe=SpecDescribes(experiment(tao_spec, *margin), path))
    assert checkpoint.description.threshold.value == value


def test_align_corners_is_forced_off_with_a_warning_and_is_no_contradiction_then(
    experiment: Any, tao_spec: Spec, write_tao: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path, spec = write_tao(), experiment(tao_spec, "model.decode_head.align_corners=true")
    with caplog.at_level(logging.WARNING):
        stored = load_checkpoint(path, describe=SpecDescribes(spec, path)).description
    assert "align_corners" in caplog.text
    assert stored.network["align_corners"] is False
    assert not list(contradictions(spec, stored, path))


class Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def test_a_spec_that_contradicts_the_one_inside_the_file_is_told_every_key(
    experiment: Any, tao_spec: Spec, write_tao: Write, tmp_path: Path
) -> None:
    stored = {
        "model": {
            "backbone": {"type": "fan_tiny_8_p4_hybrid"},
            "decode_head": {"align_corner": True, "use_summary_token": False, "decoder_params": {"embed_dims": 8}},
            "classify": {"diff_module": "learnable", "embed_dec": 6, "eval_margin": 0.005},
        },
        "dataset": {
            "classify": {
                "num_input": 8,
                "input_map": None,
                "image_width": 32,
                "image_height": "${dataset.classify.image_width}",
            }
        },
        "train": {"unknown": Trap(tmp_path / "ran"), "optim": {"lr": 3}},
        "results_dir": "${oc.env:HOME}",
    }
    path = write_tao(hyper_parameters={"experiment_spec": argparse.Namespace(**stored)})
    agreeing = experiment(tao_spec)
    assert load_checkpoint(path, describe=SpecDescribes(agreeing, path)).description.threshold.value == 0.5
    other = experiment(
        tao_spec,
        "model.classify.embed_dec=7",
        "dataset.classify.image_height=64",
        "dataset.classify.input_map={White: 0}",
    )
    with pytest.raises(SpecError) as caught:
        load_checkpoint(path, describe=SpecDescribes(other, path))
    told = {"model.classify.embed_dec", "dataset.classify.image_height", "dataset.classify.input_map"}
    assert keys(caught.value.problems) == told
    assert f"{path} was trained with 6" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_tensors_that_do_not_fit_the_spec_are_named(experiment: Any, tao_spec: Spec, write_tao: Write) -> None:
    path = write_tao()
    with pytest.raises(CheckpointError, match="of another shape") as caught:
        load_checkpoint(path, describe=SpecDescribes(experiment(tao_spec, "model.classify.embed_dec=7"), path))
    assert path in str(caught.value)


LIGHTS = {"A": 0, "B": 1, "C": 2, "D": 3}
STATISTICS = {"rgb_input_mean": [0.5, 0.5, 0.5], "rgb_input_std": [0.25, 0.25, 0.25]}


@pytest.fixture
def stored(tao_spec: Spec) -> Spec:
    """A spec of four lights in a grid, of the network of `tao_state`: what tensor shapes do not show counts."""
    spec = copy.deepcopy(tao_spec)
    spec["dataset"]["classify"] |= {
        "image_width": 16,
        "image_height": 16,
        "num_input": 4,
        "input_map": LIGHTS,
        "concat_type": "grid",
        "grid_map": {"x": 2, "y": 2},
        "augmentation_config": STATISTICS,
    }
    return spec


def described(path: str, experiment: Experiment) -> ModelDescription:
    return load_checkpoint(path, describe=SpecDescribes(experiment, path)).description


@pytest.mark.parametrize("written", [{}, {"dataset": {"classify": {"input_map": LIGHTS, "num_input": 4}}}])
def test_keys_that_are_left_out_are_as_in_the_spec_inside_the_file(
    experiment: Any, stored: Spec, write_tao: Write, written: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_tao(hyper_parameters={"experiment_spec": stored})
    with caplog.at_level(logging.INFO):
        found = described(path, experiment(written))
    grid = PictureLayout(lights=tuple(LIGHTS), concat="grid", grid=(2, 2), width=16, height=16)
    assert (found.layout, found.image_ext) == (grid, ".png")
    assert (found.network["mean"], found.network["std"]) == ([0.5] * 3, [0.25] * 3)
    assert found.network == described(path, experiment(stored)).network
    assert not list(contradictions(experiment(written), found, path))
    (line,) = [each.getMessage() for each in caplog.records if "leaves out" in each.getMessage()]
    for key in ("concat_type 'grid'", "rgb_input_mean [0.5, 0.5, 0.5]", "embed_dec 6", "image_width 16", "image_ext"):
        assert key in line
    assert ("input_map" in line) == (not written)
    assert "num_golden" not in line  # it says what is so anyway


def test_a_spec_that_says_all_takes_nothing_over(
    experiment: Any, stored: Spec, write_tao: Write, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        described(write_tao(hyper_parameters={"experiment_spec": stored}), experiment(stored))
    assert "leaves out" not in caplog.text


def test_what_is_taken_over_must_fit_what_is_written(experiment: Any, stored: Spec, write_tao: Write) -> None:
    stored["dataset"]["classify"]["num_classes"] = 2
    path = write_tao(hyper_parameters={"experiment_spec": stored})
    with pytest.raises(SpecError, match=r"num_classes: is 2, but .* lists 3 with PASS") as caught:
        described(path, experiment({"dataset": {"classify": {"classes": ["PASS", "open", "short"]}}}))
    assert path in str(caught.value)


@pytest.mark.parametrize("value", [None, "linear"])
def test_no_concat_type_is_linear_in_tao(experiment: Any, stored: Spec, value: str | None) -> None:
    stored["dataset"]["classify"] |= {"concat_type": value, "augmentation_config": None}
    tao = TaoCheckpoint({}, spec=stored)
    assert SpecDescribes(experiment({}), "x.pth")(tao).layout.concat == "linear"
    with pytest.raises(SpecError) as caught:
        SpecDescribes(experiment({"dataset": {"classify": {"input_map": LIGHTS, "concat_type": "grid"}}}), "x.pth")(tao)
    assert keys(caught.value.problems) == {"dataset.classify.concat_type"}


def test_a_stored_interpolation_that_never_closes_is_left_out(
    experiment: Any, tao_spec: Spec, stored: Spec, write_tao: Write
) -> None:
    stored["results_dir"] = "/data/${DATE"
    stored["dataset"]["classify"] |= {"image_ext": "${foo bar}"}
    found = described(write_tao(hyper_parameters={"experiment_spec": stored}), experiment({}))
    assert found.layout.lights == tuple(LIGHTS)
    assert found.image_ext == ".jpg"


IMAGENET = {"rgb_input_mean": [0.485, 0.456, 0.406], "rgb_input_std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(
    ("statistics", "warns"),
    [
        ({}, True),
        (IMAGENET, True),
        ({**IMAGENET, "rgb_input_mean": [0.4852, 0.456, 0.406]}, False),
        (STATISTICS, False),
    ],
)
def test_statistics_of_c_radio_are_taken_as_tao_7_3_does_with_a_warning(
    experiment: Any, caplog: pytest.LogCaptureFixture, statistics: Spec, warns: bool
) -> None:
    radio = {"backbone": {"type": "c_radio_v2_vit_base_patch16_224"}}
    spec = experiment({"model": radio, "dataset": {"classify": {"augmentation_config": statistics}}})
    for stored in ({}, {"model": radio, "dataset": {"classify": {"augmentation_config": IMAGENET}}}):
        caplog.clear()
        network = SpecDescribes(spec, "x.pth")(TaoCheckpoint({}, spec=stored)).network
        assert caplog.text.count("rgb_input_mean: [0.4852, 0.456, 0.406]") == warns
        expected = (None, None) if warns else tuple(map(tuple, statistics.values()))
        assert (network["mean"], network["std"]) == expected


def test_c_radio_statistics_that_are_not_imagenets_are_taken_from_the_file(experiment: Any) -> None:
    radio = {"backbone": {"type": "c_radio_v2_vit_base_patch16_224"}}
    stored = {"model": radio, "dataset": {"classify": {"augmentation_config": STATISTICS}}}
    for statistics in ({}, IMAGENET):
        spec = experiment({"model": radio, "dataset": {"classify": {"augmentation_config": statistics}}})
        network = SpecDescribes(spec, "x.pth")(TaoCheckpoint({}, spec=stored)).network
        assert (network["mean"], network["std"]) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
