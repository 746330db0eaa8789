from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from changenet.spec import LoadedSpec, load_spec
from changenet.spec.effects import without_effect
from changenet.spec.keys import all_keys
from changenet.spec.modern import modern_form
from changenet.spec.spellings import modern_path
from changenet.spec.tree import get, leaves, parse_path, put, show_path

ROOT = Path(__file__).parents[3]
DIALECTS = sorted((ROOT / "tests" / "parity" / "tao_specs").glob("*.yaml"))

OLD = """
results_dir: /r
encryption_key: clear-text
wandb: {project: x}
model:
  backbone: {pretrained_backbone_path: "False"}
  classify: {diff_module: learnable, eval_margin: 2.0}
  decode_head: {align_corner: false, decoder_params: {embed_dims: 128}}
dataset:
  classify:
    train_dataset: {csv_path: "${oc.env:NOT_SET_HERE_,data}/train.csv"}
    input_width: 64
    input_height: ${dataset.classify.input_width}
    num_classes: 5
train: {val_interval: 1, precision: fp16, classify: {cls_weights: [1, 2, 3, 4, 5]}, optim: {betas: [0.9, 0.9], lr: 1e-5}}
evaluate: {vis_after_n_batches: 3, checkpoint: "${results_dir}/train/x.pth"}
inference: {checkpoint: '???'}
quantize: {layers: [{module_name: "*", weights: {dtype: float8_e5m2}}]}
gen_trt_engine: {tensorrt: {data_type: fp16}}
"""


@pytest.fixture
def modern(tmp_path: Path) -> Callable[[Path], tuple[str, LoadedSpec]]:
    def write(old: Path) -> tuple[str, LoadedSpec]:
        text, new = modern_form(str(old)), tmp_path / "modern.yaml"
        new.write_text(text, encoding="utf-8")
        return text, load_spec(new)

    return write


def meaning(loaded: LoadedSpec) -> dict[str, Any]:
    """Return the resolved experiment: every value, those that follow from others worked out, those without effect at
    their default."""
    experiment = loaded.experiment
    values = experiment.model_dump(mode="json", exclude={"encryption_key"})
    for name, value in zip(("width", "height"), experiment.light_size, strict=True):
        put(values, parse_path(f"dataset.classify.image_{name}"), value)
    for notice in without_effect(experiment):
        for key, value in notice.remedy.items():
            put(values, parse_path(key), all_keys()[key].default if value is None else value)
    values["eval_margin"] = experiment.eval_margin
    properties = (
        "loss",
        "lights",
        "grid",
        "classes",
        "num_classes",
        "threshold_policy",
        "monitor",
        "head",
        "statistics",
    )
    return values | {name: getattr(experiment, name) for name in properties}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.yaml"
    path.write_text(OLD, encoding="utf-8")
    return path


def test_every_change_has_a_comment(modern: Any, old: Path) -> None:
    text, after = modern(old)
    assert "clear-text" not in text
    for line in (
        "# was train.val_interval",
        "# was model.decode_head.decoder_params.embed_dims",
        "# was 'False', which means null",
        "# was fp16",
        "# was ${dataset.classify.input_width}",
        "image_height: ${dataset.classify.image_width}",
        "# 2.0 is no probability: 0.5 is used",
        "# Left out: train.optim.betas",
        "# Left out: wandb.project",
        "# Left out: encryption_key",
        "# Left out: inference.checkpoint: not given (???)",
        "${results_dir}/train/x.pth",
        "# quantize.layers[0].weights.dtype: was float8_e5m2",
        "# was not written: 0.1 is the default here, 0.01 in TAO 7.3",
    ):
        assert line in text
    assert all("num_classes" in warning for warning in after.warnings)
    assert after.experiment.model.classify.eval_margin == 0.5
    assert meaning(after) == meaning(load_spec(old))


def test_an_interpolated_name_is_followed(modern: Any, tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("train: {val_interval: 2, checkpoint_interval: '${train.val_interval}'}", encoding="utf-8")
    text, after = modern(path)
    assert "checkpoint_interval: ${train.validation_interval}" in text
    assert after.experiment.train.checkpoint_interval == 2


@pytest.mark.parametrize("path", DIALECTS, ids=lambda path: path.stem)
def test_the_modern_form_of_every_dialect_means_the_same(path: Path, modern: Any) -> None:
    _, after = modern(path)
    before = load_spec(path)
    assert meaning(after) == meaning(before)
    assert not after.warnings


@pytest.mark.parametrize("path", DIALECTS, ids=lambda path: path.stem)
def test_no_section_is_lost_and_no_value_changes_without_a_comment(path: Path, modern: Any) -> None:
    text, _ = modern(path)
    before = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    after = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    assert isinstance(before, dict)
    assert set(before) <= set(after)
    comments = "\n".join(line for line in text.splitlines() if line.lstrip().startswith("#"))
    missing = object()
    for old_path, value in leaves(before):
        now = get(after, modern_path(old_path), missing)
        if now is missing or now != value:
            assert (
                show_path(modern_path(old_path)) in comments
                or f"was {value}" in comments
                or f"was {value!r}" in comments
                or f"# {value} is " in comments
            )
        if modern_path(old_path) != old_path and not old_path[-1].isdigit():
            assert f"was {show_path(old_path)}" in comments


def test_defaults_that_differ_from_taos_are_written_where_they_matter(modern: Any, tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("model: {backbone: {type: fan_tiny_8_p4_hybrid}}\ndataset: {classify: {image_width: 64}}")
    text, after = modern(path)
    assert "# was not written: learnable is the default here, euclidean in TAO 7.3" in text
    assert "# was not written: 128 is the default here, 224 in TAO 7.3" in text
    assert "use_summary_token" not in text  # FAN has no such token
    assert "optim" not in text  # the spec says nothing about training
    assert after.experiment.light_size == (64, 128)
    path.write_text("model: {classify: {difference_module: euclidean}}")
    assert "embed_dec" not in modern(path)[0]


@pytest.mark.parametrize("names", [["mean", "std"], ["mean"], ["std"]])
def test_imagenet_statistics_of_c_radio_are_explained_once(modern: Any, tmp_path: Path, names: list[str]) -> None:
    values = {"mean": "[0.485, 0.456, 0.406]", "std": "[0.229, 0.224, 0.225]"}
    written = ", ".join(f"rgb_input_{name}: {values[name]}" for name in names)
    path = tmp_path / "old.yaml"
    path.write_text(
        "model: {backbone: {type: c_radio_v2_vit_base_patch16_224}}\n"
        f"dataset: {{classify: {{augmentation_config: {{{written}}}}}}}\n"
    )
    assert modern(path)[0].count("with C-RADIO they mean the encoder's own") == 1


def test_a_modern_spec_stays_as_it_is(modern: Any) -> None:
    file = ROOT / "specs" / "light.yaml"
    assert meaning(modern(file)[1]) == meaning(load_spec(file))
