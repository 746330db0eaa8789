from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from changenet import factory
from changenet.agreement import contradictions, differences
from changenet.data.lights import PictureLayout
from changenet.description import ModelDescription, Threshold
from changenet.model.network import ChangeNet
from changenet.spec import Experiment, load_spec

Spec = dict[str, Any]
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


def test_a_grid_map_agrees_whether_or_not_the_spec_says_that_there_is_a_grid(experiment: Any) -> None:
    grid = PictureLayout(lights=("a", "b", "c", "d"), concat="grid", grid=(2, 2), width=128, height=128)
    lights = {"input_map": {"a": 0, "b": 1, "c": 2, "d": 3}}
    for rows, expected in ((2, set()), (3, {"dataset.classify.grid_map"})):
        spec = experiment({"dataset": {"classify": {**lights, "grid_map": {"x": 2, "y": rows}}}})
        assert keys(contradictions(spec, description(layout=grid), "a.pth")) == expected


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
