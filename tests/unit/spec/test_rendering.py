from __future__ import annotations

from pathlib import Path

import pytest

from changenet.spec import Experiment, load_spec
from changenet.spec.keys import all_keys
from changenet.spec.rendering import template, with_key_table

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


SPECS = sorted(set((ROOT / "specs").glob("*.yaml")) - {ROOT / "specs" / "sweep.yaml"})  # that one searches over a spec


@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.name)
def test_the_specs_to_copy_load_without_warnings(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANGENET_REAL_DATA", "data")
    assert load_spec(spec).warnings == ()
