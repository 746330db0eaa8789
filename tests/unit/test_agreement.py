from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from changenet import factory
from changenet.agreement import SpecDescribes, contradictions, differences
from changenet.data.lights import PictureLayout
from changenet.description import ModelDescription, Threshold
from changenet.errors import CheckpointError, SpecError
from changenet.inspection import Inspector
from changenet.model.network import ChangeNet
from changenet.model.tao_checkpoint import load_tao_state
from changenet.spec import Experiment, load_spec
from changenet.training.checkpoint import load_checkpoint

Spec = dict[str, Any]
Write = Callable[..., str]
TINY = "fan_tiny_8_p4_hybrid"


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[..., Experiment]:
    def load(spec: Spec, *overrides: str) -> Experiment:
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump({"task": "classify", **spec}))
        return load_spec(tmp_path / "spec.yaml", overrides).experiment

    return load


def description(**fields: Any) -> ModelDescription:
    network = {"difference_module": "learnable", "backbone": TINY, **fields.pop("network", {})}
    return ModelDescription(
        **{"network": network, "layout": PictureLayout(), "threshold": Threshold(0.3), **fields}  # type: ignore[arg-type]
    )


def keys(problems: Any) -> set[str]:
    return {problem.where for problem in problems}


def test_only_what_is_written_can_contradict_and_all_of_it_is_told(experiment: Any) -> None:
    grid = PictureLayout(lights=("White", "Solder", "Low", "High"), concat="grid", grid=(2, 2), width=64, height=64)
    trained = description(layout=grid)
    assert not list(contradictions(experiment({}), trained, "a.pth"))
    written = {
        "input_map": {"Solder": 0, "White": 1, "Low": 2, "High": 3},
        "concat_type": "linear",
        "image_width": 128,
        "image_height": 64,
    }
    spec = {"dataset": {"classify": written}, "model": {"backbone": {"type": "fan_small_12_p4_hybrid"}}}
    problems = list(contradictions(experiment(spec), trained, "a.pth"))
    assert keys(problems) == {
        "dataset.classify.input_map",
        "dataset.classify.concat_type",
        "dataset.classify.image_width",
        "model.backbone.type",
    }
    assert "a.pth was trained with ['White', 'Solder', 'Low', 'High']" in str(problems)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.classify.embed_dec=9", "model.classify.embed_dec"),
        ("model.decode_head.decoder_params.embed_dim=16", "model.decode_head.decoder_params.embed_dim"),
        ("model.classify.learnable_difference_modules=3", "model.classify.learnable_difference_modules"),
        ("model.classify.head=pool", "model.classify.head"),
        ("dataset.classify.num_classes=3", "dataset.classify.num_classes"),
        ("dataset.classify.num_golden=2", "dataset.classify.num_golden"),
        (
            "dataset.classify.augmentation_config.rgb_input_mean=[0.5,0.5,0.5]",
            "dataset.classify.augmentation_config.rgb_input_mean",
        ),
    ],
)
def test_every_key_that_shapes_network_or_pictures_is_compared(experiment: Any, override: str, key: str) -> None:
    sizes = [f"dataset.classify.image_{side}=448" for side in ("width", "height")]  # several goldens need them
    network = {**factory.network_arguments(experiment({}, *sizes)), "mean": [0.485, 0.456, 0.406]}
    trained = description(network={**network, "backbone": TINY}, layout=PictureLayout(width=448, height=448))
    assert not list(contradictions(experiment({}, *sizes), trained, "a.pth"))
    assert keys(contradictions(experiment({}, *sizes, override), trained, "a.pth")) == {key}


@pytest.mark.parametrize(
    "override", ["model.classify.embedding_vectors=9", "model.decode_head.use_summary_token=false"]
)
def test_keys_without_effect_on_this_network_cannot_contradict(experiment: Any, override: str) -> None:
    trained = description(network=ChangeNet(embed_dim=8).arguments)
    assert not list(contradictions(experiment({}, override), trained, "a.pth"))


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
    load_tao_state(network, tao_state)
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


def test_the_spec_inside_a_tao_checkpoint_only_contradicts(
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


RUN = {"dataset": {"classify": {"input_map": {"a": 0, "b": 1}, "num_input": 2}}}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("dataset.classify.input_map={b: 0, a: 1}", {"dataset.classify.input_map"}),
        ("dataset.classify.classes=[PASS, open]", {"dataset.classify.classes"}),
        ("dataset.classify.batch_size=16", {"dataset.classify.batch_size"}),
        ("dataset.classify.fpratio_sampling=0.5", {"dataset.classify.fpratio_sampling"}),
        ("dataset.classify.image_width=64", {"dataset.classify.image_width"}),
        ("dataset.classify.augmentation_config.augment=true", {"dataset.classify.augmentation_config.augment"}),
        ("model.classify.embed_dec=9", {"model.classify.embed_dec"}),
        ("train.classify.cls_weight=[1, 2]", {"train.classify.cls_weight"}),
        ("train.optim.optim=sgd", {"train.optim.optim"}),
        ("train.ema_decay=0.9", {"train.ema_decay"}),
        ("train.accumulate_grad_batches=2", {"train.accumulate_grad_batches"}),
        ("train.precision=16-mixed", {"train.precision"}),
        ("train.precision=bf16-mixed", set()),
        ("train={num_epochs: 50, optim: {lr: 0.1, weight_decay: 0}}", set()),
        ("dataset.classify.workers=0", set()),
        ("dataset.classify.augmentation_config.random_flip.enable=false", set()),  # augment is off
        ("dataset.classify.train_dataset.csv_path=moved.csv", set()),
        ("model.classify.eval_margin=0.3", set()),
    ],
)
def test_a_run_goes_on_only_with_what_it_began_with(experiment: Any, override: str, expected: set[str]) -> None:
    began, now = experiment(RUN), experiment(RUN, override)
    stored = factory.describe(began, factory.network_arguments(began))
    found = dict(differences(now, factory.network_arguments(now), stored))
    assert set(found) - {"dataset.classify.num_classes"} == expected
