from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from changenet.data.annotations import read_annotations
from changenet.data.lights import PictureLayout
from changenet.data.pairs import PairSource
from ray_jobs import score_parts
from ray_jobs.score_parts import ScoreParts, forget_parts

ROWS, BATCH = 10, 3


@pytest.fixture
def source(tmp_path: Path) -> PairSource:
    lines = ["input_path,golden_path,label,object_name"]
    for number in range(ROWS):
        for kind in ("test", "golden"):
            (tmp_path / "images" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / kind / f"{number}.png").write_bytes(b"a picture")
        lines.append(f"test,golden,PASS,{number}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return PairSource(
        annotations=read_annotations(tmp_path / "pairs.csv"),
        images_dir=tmp_path / "images",
        image_ext=".png",
        layout=PictureLayout(width=32, height=32),
    )


@pytest.fixture(autouse=True)
def every_block_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_parts, "SECONDS", 0)


def block(source: PairSource, rows: range, *, bad: int | None = None) -> dict[str, Any]:
    return {
        "row": np.array(rows),
        "score": np.array([np.nan if row == bad else row / 7 for row in rows]),
        "prediction": np.array(["ERROR" if row == bad else "PASS" for row in rows], dtype=object),
        "error": np.array(["no picture" if row == bad else "" for row in rows], dtype=object),
        "stamp": np.array([source.stamp(row) for row in rows]),
    }


def parts_in(folder: object, **depends_on: Any) -> ScoreParts:
    return ScoreParts(str(folder), batch_size=BATCH, depends_on=depends_on)


@pytest.mark.parametrize("place", ["{folder}/parts", "memory://parts-of-a-run"])
def test_the_next_run_gets_what_was_kept(source: PairSource, tmp_path: Path, place: str) -> None:
    folder = place.format(folder=tmp_path)
    assert not len(parts_in(folder).load(source)["row"])
    parts = parts_in(folder)
    parts.add(block(source, range(6, 10)))
    parts.add(block(source, range(3)))
    found = parts_in(folder).load(source)
    order = np.argsort(found["row"])
    assert found["row"][order].tolist() == [0, 1, 2, 6, 7, 8, 9]
    assert found["score"][order].tolist() == [row / 7 for row in (0, 1, 2, 6, 7, 8, 9)]
    assert set(found["prediction"]) == {"PASS"}


def test_a_batch_with_an_error_is_not_kept(source: PairSource, tmp_path: Path) -> None:
    parts_in(tmp_path / "parts").add(block(source, range(ROWS), bad=4))
    assert parts_in(tmp_path / "parts").load(source)["row"].tolist() == [0, 1, 2, 6, 7, 8, 9]


@pytest.mark.parametrize("kind", ["test", "golden"])
def test_a_batch_whose_pictures_changed_is_not_taken(source: PairSource, tmp_path: Path, kind: str) -> None:
    parts_in(tmp_path / "parts").add(block(source, range(ROWS)))
    picture = tmp_path / "images" / kind / "7.png"
    os.utime(picture, ns=(0, picture.stat().st_mtime_ns + 1))
    assert parts_in(tmp_path / "parts").load(source)["row"].tolist() == [0, 1, 2, 3, 4, 5, 9]
    picture.unlink()
    assert parts_in(tmp_path / "parts").load(source)["row"].tolist() == [0, 1, 2, 3, 4, 5, 9]


def test_another_fingerprint_starts_anew(source: PairSource, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    parts_in(folder, model="a", threshold=0.5).add(block(source, range(ROWS)))
    assert len(parts_in(folder, threshold=0.5, model="a").load(source)["row"]) == ROWS
    assert not len(parts_in(folder, model="b", threshold=0.5).load(source)["row"])
    assert not len(parts_in(folder, model="a", threshold=None).load(source)["row"])
    other = ScoreParts(str(folder), batch_size=BATCH + 1, depends_on={"model": "a", "threshold": 0.5})
    assert not len(other.load(source)["row"])


def test_files_are_not_written_more_often_than_needed(
    source: PairSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_in(tmp_path / "parts")
    monkeypatch.setattr(score_parts, "SECONDS", 1e9)
    parts.add(block(source, range(3)))
    parts.add(block(source, range(3, 6)))
    assert not (tmp_path / "parts").exists()
    monkeypatch.setattr(score_parts, "SECONDS", 0)
    parts.add(block(source, range(6, ROWS)))
    assert len(list((tmp_path / "parts").iterdir())) == 1
    assert len(parts_in(tmp_path / "parts").load(source)["row"]) == ROWS


def test_only_our_own_files_are_forgotten(source: PairSource, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    for model in ("a", "b"):
        parts_in(folder, model=model).add(block(source, range(ROWS)))
    part = next(folder.iterdir()).name
    (folder / f".{part}.k2x_q1").touch()  # as a run that was killed while it wrote leaves it
    (folder / "notes.npz").touch()
    (folder / "images").mkdir()
    forget_parts(str(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["images", "notes.npz"]
    (folder / "notes.npz").unlink()
    (folder / "images").rmdir()
    parts_in(folder).add(block(source, range(ROWS)))
    forget_parts(str(folder))
    assert not folder.exists()
    forget_parts(str(folder))


def test_what_is_written_holds_no_setting(source: PairSource, tmp_path: Path) -> None:
    parts_in(tmp_path / "parts", description="horse staple").add(block(source, range(ROWS)))
    (file,) = (tmp_path / "parts").iterdir()
    with np.load(file) as stored:
        assert set(stored) <= {"row", "score", "prediction", "stamp", "allow_pickle"}
    assert "horse" not in file.name
