from __future__ import annotations

from pathlib import Path

import pytest

from changenet.spec.modern import TAO_DEFAULTS
from changenet.spec.spellings import OLD_KEYS
from changenet.spec.tree import get, parse_path

OLD = [
    ("model.decode_head.align_corner=true", "model.decode_head.align_corners", True),
    ("model.decode_head.decoder_params.embed_dims=64", "model.decode_head.decoder_params.embed_dim", 64),
    ("model.decode_head.decoder_params={embed_dims: 64}", "model.decode_head.decoder_params.embed_dim", 64),
    ("model.classify.diff_module=euclidean", "model.classify.difference_module", "euclidean"),
    ("dataset.classify.input_width=64", "dataset.classify.image_width", 64),
    ("dataset.classify.input_height=64", "dataset.classify.image_height", 64),
    (
        "dataset.classify.augmentation_config.random_color.enabled=false",
        "dataset.classify.augmentation_config.random_color.enable",
        False,
    ),
    ("train.classify.cls_weights=[1,2]", "train.classify.cls_weight", (1.0, 2.0)),
    ("train.val_interval=2", "train.validation_interval", 2),
    ("train.tensorboard.enable=false", "train.tensorboard.enabled", False),
    ("train.precision=bf16", "train.precision", "bf16-mixed"),
    ("train.precision=16", "train.precision", "16-mixed"),
    ("train.precision=fp32", "train.precision", "32-true"),
]


@pytest.mark.parametrize(("override", "modern", "value"), OLD)
def test_old_spellings_work_with_one_warning_that_names_the_modern_one(
    load, override: str, modern: str, value: object
) -> None:
    loaded = load("", override)
    assert get(loaded.experiment.model_dump(), parse_path(modern)) == value
    (warning,) = loaded.warnings
    assert modern in warning
    assert warning.startswith("command line")


def test_modelopt_means_its_pytorch_backend(load) -> None:
    loaded = load("quantize: {backend: modelopt, layers: [{module_name: a, weights: {dtype: float8_e4m3fn}}]}")
    assert loaded.experiment.quantize.backend == "modelopt.pytorch"
    assert loaded.experiment.quantize.layers[0].weights.dtype == "fp8_e4m3fn"
    assert sum("write 'modelopt.pytorch'" in line for line in loaded.warnings) == 1


@pytest.mark.parametrize("word", ["False", "'False'", "None", "''", "null"])
def test_taos_words_for_no_weights_mean_null(load, word: str) -> None:
    loaded = load(f"model: {{backbone: {{pretrained_backbone_path: {word}}}}}")
    assert loaded.experiment.model.backbone.pretrained_backbone_path is None
    assert loaded.warnings == ()


def test_an_override_by_an_old_name_beats_the_modern_name_in_the_file(load) -> None:
    assert load("train: {validation_interval: 3}", "train.val_interval=2").experiment.train.validation_interval == 2


def test_two_spellings_with_two_values_contradict(problems) -> None:
    (line,) = problems("train: {val_interval: 1, validation_interval: 2}")
    assert "two spellings of one key" in line


def test_two_spellings_with_one_value_do_not(load) -> None:
    assert len(load("train: {val_interval: 2, validation_interval: 2}").warnings) == 1


def test_the_page_for_tao_users_has_every_old_spelling_and_every_default_that_differs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "tao-users.md").read_text(encoding="utf-8")
    assert [key for key in [*OLD_KEYS, *TAO_DEFAULTS] if f"{key.rsplit('.', 1)[-1]}`" not in page] == []
