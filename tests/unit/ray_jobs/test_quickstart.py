from __future__ import annotations

from pathlib import Path

import pytest

from changenet.errors import DataError
from ray_jobs import quickstart


def test_what_an_earlier_quickstart_left_is_set_aside(tmp_path: Path) -> None:
    home = quickstart._fresh(tmp_path / "demo")
    (home / "data").mkdir()
    (home / "data" / "spec.yaml").write_text("edited")
    assert quickstart._fresh(home) == home
    assert [path.name for path in home.iterdir()] == [quickstart.MARKER]
    (aside,) = tmp_path.glob("demo-until-*")
    assert (aside / "data" / "spec.yaml").read_text() == "edited"


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="not empty"):
        quickstart._fresh(tmp_path)
    assert (tmp_path / "notes.txt").exists()
