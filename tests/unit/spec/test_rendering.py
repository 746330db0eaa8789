from __future__ import annotations

from pathlib import Path

import pytest

from changenet.spec import Experiment, load_spec
from changenet.spec.keys import all_keys
from changenet.spec.rendering import modern_form, template, with_key_table

ROOT = Path(__file__).parents[3]


def test_the_table_of_keys_in_the_docs_is_up_to_date() -> None:
    page = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
    assert with_key_table(page) == page, "run: python -m changenet.spec.rendering docs/spec.md"


def test_the_template_is_the_defaults_and_loads_without_warnings(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(template(), encoding="utf-8")
    loaded = load_spec(file)
    assert loaded.warnings == ()
    best = {"checkpoint": "./results/train/model_best.pth"}
    assert loaded.experiment == Experiment.model_validate({"evaluate": best, "inference": best, "export": best})


def test_the_template_comments_every_key() -> None:
    text = template()
    for path, key in all_keys().items():
        if "[]" not in path:
            assert f"{key.field.description} ({key.allowed})" in text, path


@pytest.mark.parametrize("spec", sorted((ROOT / "specs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_specs_to_copy_load_without_warnings(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANGENET_REAL_DATA", "data")
    assert load_spec(spec).warnings == ()


OLD = """
results_dir: /r
encryption_key: clear-text
wandb: {project: x}
model:
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
"""


def test_an_old_spec_in_modern_form_loads_without_warnings_and_means_the_same(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(OLD, encoding="utf-8")
    text = modern_form(str(old))
    new.write_text(text, encoding="utf-8")
    before, after = load_spec(old), load_spec(new)
    assert len(before.warnings) > 10
    assert after.warnings == ()
    one, other = before.experiment, after.experiment
    for compare in ("light_size", "eval_margin", "threshold_policy", "loss", "lights", "classes"):
        assert getattr(one, compare) == getattr(other, compare)
    assert one.train.optim.lr == other.train.optim.lr
    assert one.train.precision == other.train.precision
    assert "clear-text" not in text
    for comment in (
        "# was train.val_interval",
        "# was model.decode_head.decoder_params.embed_dims",
        "# 2.0 is no probability: 0.5 is used",
        "# Left out: train.optim.betas",
        "# Left out: wandb.project",
        "# Left out: encryption_key",
        "${results_dir}/train/x.pth",
        "image_height: ${dataset.classify.image_width}",
    ):
        assert comment in text


def test_a_modern_spec_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text((ROOT / "specs" / "light.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    again = tmp_path / "again.yaml"
    again.write_text(modern_form(str(file)), encoding="utf-8")
    assert load_spec(again).experiment == load_spec(file).experiment
