from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from changenet.data.annotations import read_annotations
from ray_jobs import scoring
from ray_jobs.scoring import Scored, write_scores

ROWS = [
    ("note", "object_name", "label", "golden_path", "input_path"),
    ('NA, "00"', "007", "PASS", "golden", "test"),
    ("", "1e5", "open", "golden", "test"),
    ("two\nlines", "None", "nan", "golden", "übung/test"),
]
OURS = ("siamese_score", "prediction", "error")


def rewritten(folder: Path, scored: Scored, *, extra: dict[str, str] | None = None) -> list[dict[str, str]]:
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(ROWS)
    annotations = read_annotations(folder / "pairs.csv")
    for name, value in (extra or {}).items():
        annotations.frame.insert(1, name, value)
    write_scores(str(folder / "out.csv"), annotations, scored)
    with (folder / "out.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


SCORED = Scored(
    scores=np.array([0.1, np.nan, 1e-7]),
    predictions=np.array(["FAIL", "ERROR", "PASS"], dtype=object),
    errors=np.array(["", "broken, and more", ""], dtype=object),
)


def test_input_cells_stay_as_they_were_and_ours_follow(tmp_path: Path) -> None:
    rows = rewritten(tmp_path, SCORED)
    assert list(rows[0]) == [*ROWS[0], *OURS]
    assert [tuple(row[name] for name in ROWS[0]) for row in rows] == ROWS[1:]
    assert [tuple(row[name] for name in OURS) for row in rows] == [
        ("0.1", "FAIL", ""),
        ("", "ERROR", "broken, and more"),
        ("1e-07", "PASS", ""),
    ]


def test_a_long_file_is_written_in_pieces_that_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rewritten(tmp_path, SCORED), (tmp_path / "out.csv").read_bytes()
    monkeypatch.setattr(scoring, "PIECE", 2)
    assert (rewritten(tmp_path, SCORED), (tmp_path / "out.csv").read_bytes()) == whole


def test_columns_of_an_earlier_run_are_replaced(tmp_path: Path) -> None:
    rows = rewritten(tmp_path, SCORED, extra={"prediction": "old", "siamese_score": "9"})
    assert list(rows[0]) == [*ROWS[0], *OURS]
    assert rows[0]["prediction"] == "FAIL"
