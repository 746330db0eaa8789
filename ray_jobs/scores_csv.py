"""`inference.csv` and `evaluate.csv`: every input column untouched, then what was found out about each row."""

from __future__ import annotations

import csv
import math
from typing import IO

from changenet import storage
from changenet.data.annotations import RESULT_COLUMNS, Annotations, check_result_columns
from changenet.data.findings import Findings
from ray_jobs.scoring import Scored

PIECE = 1 << 16  # rows that are turned into text at a time
_END = "\r\n"


def check_columns(annotations: Annotations) -> None:
    """Make sure that no column of the input has the name of a result, unless it is a result of an earlier run.

    Raises:
        DataError: One has.
    """
    findings = Findings()
    check_result_columns(annotations, findings)
    findings.raise_errors()


def write_scores(path: str, annotations: Annotations, scored: Scored) -> None:
    """Write a CSV: every input column untouched, then `siamese_score`, `prediction` and `error`.

    Columns of these three names in the input are an earlier run's and are replaced; see `check_columns`.

    Args:
        path: Local path or URI.
        annotations: The rows.
        scored: Their results.
    """
    table = annotations.frame.drop(columns=list(RESULT_COLUMNS), errors="ignore")
    with storage.atomic_write(path) as file:
        # The writer quotes a line break in a cell only if its own lines end in that character.
        writer = csv.writer(_Lines(file), lineterminator=_END)
        writer.writerow([*table.columns, *RESULT_COLUMNS])
        for start in range(0, len(table), PIECE):
            rows = slice(start, start + PIECE)
            scores = ["" if math.isnan(value) else repr(value) for value in scored.scores[rows].tolist()]
            cells = [table[name].iloc[rows].tolist() for name in table.columns]
            writer.writerows(zip(*cells, scores, scored.predictions[rows], scored.errors[rows], strict=True))


class _Lines:
    """Writes the lines of a CSV writer with plain line feeds."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, line: str) -> None:
        """Write one line, which ends in `_END`."""
        self._file.write(f"{line.removesuffix(_END)}\n".encode())
