from __future__ import annotations

from pathlib import Path

import pytest

from changenet.errors import SpecError
from changenet.spec import load_spec
from ray_jobs import init


def test_init_writes_a_spec_that_loads(tmp_path: Path) -> None:
    out = tmp_path / "new" / "spec.yaml"
    assert init.run(out=str(out)) == 0
    assert load_spec(out).warnings == ()


def test_init_prints_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    init.run()
    assert "num_epochs: 10  # " in capsys.readouterr().out


def test_init_never_touches_an_existing_file(tmp_path: Path) -> None:
    out = tmp_path / "spec.yaml"
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(SpecError, match="exists already"):
        init.run(out=str(out))
    assert out.read_text(encoding="utf-8") == "mine"


def test_init_from_a_wrong_spec_says_what_is_wrong_and_writes_nothing(tmp_path: Path) -> None:
    old, out = tmp_path / "old.yaml", tmp_path / "spec.yaml"
    old.write_text("train: {num_epochs: 0}", encoding="utf-8")
    with pytest.raises(SpecError, match=r"train\.num_epochs"):
        init.run(out=str(out), source=str(old))
    assert not out.exists()
