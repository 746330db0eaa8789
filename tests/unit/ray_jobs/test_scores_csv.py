from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from changenet.data.annotations import Annotations, read_annotations
from changenet.errors import DataError
from ray_jobs import scores_csv
from ray_jobs.scores_csv import check_columns, write_scores
from ray_jobs.scoring import Scored

ROWS = [
    ("note", "object_name", "label", "golden_path", "input_path"),
    ('NA, "00"', "007", "PASS", "golden", "test"),
    ("", "1e5", "open", "golden", "test"),
    ("two\nlines", "None", "nan", "golden", "übung/test"),
]
OURS = ("siamese_score", "prediction", "error")


def read(folder: Path, rows: Iterable[tuple[str, ...]]) -> Annotations:
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return read_annotations(folder / "pairs.csv")


def rewritten(folder: Path, scored: Scored, *, extra: dict[str, str] | None = None) -> list[dict[str, str]]:
    annotations = read(folder, ROWS)
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
    monkeypatch.setattr(scores_csv, "PIECE", 2)
    assert (rewritten(tmp_path, SCORED), (tmp_path / "out.csv").read_bytes()) == whole


def test_columns_of_an_earlier_run_are_replaced(tmp_path: Path) -> None:
    rows = rewritten(tmp_path, SCORED, extra={"prediction": "old", "siamese_score": "9", "error": "old"})
    assert list(rows[0]) == [*ROWS[0], *OURS]
    assert rows[0]["prediction"] == "FAIL"


def with_columns(folder: Path, *names: str) -> Annotations:
    annotations = read(folder, ROWS)
    for name in names:
        annotations.frame.insert(1, name, "theirs")
    return annotations


def test_a_column_that_only_looks_like_a_result_is_refused_before_it_would_be_lost(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pairs\.csv:1: has a column 'prediction' and 'error'.* Rename it"):
        check_columns(with_columns(tmp_path, "error", "prediction"))
    check_columns(with_columns(tmp_path, *OURS))
    check_columns(with_columns(tmp_path))


CELLS = st.text("ab ü\u2028,;'\"\r\n\t\\\0", max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(notes=st.lists(CELLS, min_size=3, max_size=3), name=CELLS.filter(lambda name: name not in ROWS[0]))
@example(notes=["x\ry", " lead", '"'], name="remark")
def test_whatever_cells_hold_is_read_again_as_it_was(tmp_path: Path, notes: list[str], name: str) -> None:
    rows = [(*row, note) for row, note in zip(ROWS, (name, *notes), strict=True)]
    before = read(tmp_path, rows)
    write_scores(str(tmp_path / "out.csv"), before, SCORED)
    after = read_annotations(tmp_path / "out.csv")
    pd.testing.assert_frame_equal(after.frame[before.frame.columns], before.frame)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        assert [tuple(row[: len(rows[0])]) for row in csv.reader(file)] == rows


def test_of_many_rows_without_a_score_the_first_are_listed_and_the_rest_are_counted(tmp_path: Path) -> None:
    annotations = read(tmp_path, [ROWS[0], *(3000 * [ROWS[1]])])
    scored = Scored(np.full(3000, np.nan), np.full(3000, "ERROR", object), np.full(3000, "no such picture", object))
    with pytest.raises(DataError) as caught:
        scored.raise_errors(annotations, written="out.csv")
    *listed, last = str(caught.value).splitlines()
    assert len(listed) == 20 and listed[0] == f"{tmp_path}/pairs.csv:2: no such picture"
    assert last == f"{tmp_path}/pairs.csv: 2,980 more rows could not be scored. See column error of out.csv."
