"""CSV file to checked columns: everything is text, and whatever is wrong is reported at once, with its line.

Read with the `csv` module, in pieces: unlike a table parser it knows the line of every row (a quoted field may span
several) and sees rows with too few or too many fields. Columns are Arrow text, so ten million rows fit in memory.
"""

from __future__ import annotations

import csv
import difflib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from changenet.data.findings import Findings
from changenet.data.kinds import Kind
from changenet.description import PASS
from changenet.errors import DataError, Problem

logger = logging.getLogger(__name__)

REQUIRED = ("input_path", "golden_path", "object_name")
LABEL = "label"
RESULT_COLUMNS = ("siamese_score", "prediction", "error")
"""What scoring adds to the input's columns."""
_SEPARATORS = (";", "\t", "|")
_PIECE = 1 << 16  # rows
_UNNAMED = ("several columns have no name", "Remove the commas at the end of every line, or name the columns.")


@dataclass(frozen=True, eq=False)
class Annotations:
    """One CSV file.

    Args:
        path: Where it was read.
        frame: All columns, as text, untouched and in their order.
        lines: The first line of each row in the file, from 1 (the header is line 1).
    """

    path: str
    frame: pd.DataFrame
    lines: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def labels(self) -> NDArray[np.object_] | None:
        """The label of each row without blanks around it; None when there is no such column."""
        if LABEL not in self.frame:
            return None
        codes, names = pd.factorize(self.frame[LABEL])
        return np.asarray([str(name).strip() for name in names], dtype=object)[codes]

    @cached_property
    def is_defect(self) -> NDArray[np.bool_]:
        """Whether the label of each row is anything but exactly `PASS`.

        Raises:
            DataError: There is no label column.
        """
        if self.labels is None:
            raise DataError(f"no column {LABEL!r}", where=self.path, fix="Add it, or use the file for inference only.")
        return np.asarray(self.labels != PASS, dtype=bool)

    def where(self, row: int) -> str:
        """Name a row for an error: file and line."""
        return f"{self.path}:{self.lines[row]}"


def read_annotations(csv_path: str | Path, *, require_label: bool = True) -> Annotations:
    """Read a CSV file of pairs.

    Args:
        csv_path: UTF-8 (a byte order mark is fine), comma-separated, with a header that names at least
            `input_path`, `golden_path`, `object_name`, in any order; other columns are kept.
        require_label: Whether `label` must be there and filled; otherwise its content does not matter.

    Raises:
        DataError: With everything that is wrong.
    """
    annotations, findings = parse_annotations(csv_path, require_label=require_label)
    for warning in findings.warnings():
        logger.warning("%s", warning)
    findings.raise_errors()
    assert annotations is not None
    return annotations


def parse_annotations(csv_path: str | Path, *, require_label: bool = True) -> tuple[Annotations | None, Findings]:
    """Read a CSV file as far as possible: the rows that can be used (None: not a table), and what was found."""
    path, findings = str(csv_path), Findings()
    try:
        table = _read_table(path, findings, require_label=require_label)
    except UnicodeDecodeError:
        table = None
        _report_encoding(path, findings)
    except OSError as error:
        table = None
        findings.add(Kind.MISSING_CSV, f"cannot be read: {error.strerror}", where=path, fix="Check csv_path.")
    if table is None:
        return None, findings
    annotations = Annotations(path, *table)
    if not len(annotations) and not findings.has_errors:
        findings.add(Kind.NO_ROWS, "has a header but no rows", where=path, fix="Add a row a pair.")
    _check_names(annotations, findings)
    if require_label:
        _check_labels(annotations, findings)
    return annotations, findings


def check_result_columns(annotations: Annotations, findings: Findings) -> None:
    """Find columns with names that scoring gives to its own, which would be lost; all three are an earlier run's."""
    taken = [name for name in RESULT_COLUMNS if name in annotations.frame]
    if 0 < len(taken) < len(RESULT_COLUMNS):
        what = f"has a column {' and '.join(map(repr, taken))}, a name that scoring gives to a column of its results"
        fix = f"Rename it, or delete it; only a file with all of {', '.join(RESULT_COLUMNS)} is an earlier result."
        findings.add(Kind.RESULT_COLUMN, what, where=f"{annotations.path}:1", fix=fix)


def _read_table(path: str, findings: Findings, *, require_label: bool) -> tuple[pd.DataFrame, NDArray[np.int64]] | None:
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next((row for row in reader if row), None)
        except csv.Error as error:
            findings.add(Kind.BAD_QUOTING, str(error), where=f"{path}:{reader.line_num}", fix="Check the quotes.")
            return None
        if header is None:
            findings.add(Kind.EMPTY_FILE, "is empty", where=path, fix="The first line names the columns.")
            return None
        if not _check_header(header, path, findings, require_label=require_label):
            return None
        pieces, lines = [pd.DataFrame({name: [] for name in header}, dtype="str")], []
        for numbers, columns in _pieces(reader, len(header), path, findings):
            pieces.append(pd.DataFrame(dict(zip(header, columns, strict=True)), dtype="str"))
            lines.append(np.asarray(numbers, dtype=np.int64))
    frame = pd.concat(pieces, ignore_index=True)
    return frame, np.concatenate([np.empty(0, dtype=np.int64), *lines])


def _pieces(
    reader: Any, width: int, path: str, findings: Findings
) -> Iterator[tuple[list[int], list[tuple[str, ...]]]]:
    """Yield (line numbers, columns) of some rows at a time, without the rows that do not fit the header."""
    numbers: list[int] = []
    rows: list[list[str]] = []
    line = reader.line_num + 1
    try:
        for row in reader:
            if len(row) == width:
                numbers.append(line)
                rows.append(row)
                if len(rows) == _PIECE:
                    yield numbers, list(zip(*rows, strict=True))
                    numbers, rows = [], []
            elif row:  # a blank line is no row
                what = f"{len(row)} fields where the header has {width}"
                findings.add(Kind.RAGGED_ROW, what, where=f"{path}:{line}", fix="Quote fields that contain a comma.")
            line = reader.line_num + 1
    except csv.Error as error:
        findings.add(Kind.BAD_QUOTING, str(error), where=f"{path}:{line}", fix="Check the quotes of this row.")
    if rows:
        yield numbers, list(zip(*rows, strict=True))


def _check_header(header: list[str], path: str, findings: Findings, *, require_label: bool) -> bool:
    where, needed = f"{path}:1", (*REQUIRED, *([LABEL] if require_label else []))
    missing = [name for name in needed if name not in header]
    text = ",".join(header)
    for separator in _SEPARATORS:
        names = {name.strip().strip('"') for name in text.split(separator)}
        if missing and separator in text and names & set(needed):
            what = f"the columns are separated by {separator!r}"
            findings.add(Kind.WRONG_SEPARATOR, what, where=where, fix="Save the file with commas.")
            return False
    for name in missing:
        fix = f"The columns are {', '.join(header)}."
        near = difflib.get_close_matches(name, {other.strip().lower(): other for other in header}, n=1, cutoff=0.75)
        if near:
            fix = f"Is it {next(o for o in header if o.strip().lower() == near[0])!r}?"
        findings.add(Kind.MISSING_COLUMN, f"no column {name!r}", where=where, fix=fix)
    for name in sorted({name for name in header if header.count(name) > 1}):
        what, fix = (f"column {name!r} is there twice", "Keep one.") if name else _UNNAMED
        findings.add(Kind.REPEATED_COLUMN, what, where=where, fix=fix)
    return not findings.has_errors


def _check_names(annotations: Annotations, findings: Findings) -> None:
    empty = (annotations.frame["object_name"].str.strip() == "").to_numpy(dtype=bool)
    for row in np.flatnonzero(empty).tolist():
        fix = "It is the name of the picture file, without light and extension."
        findings.add(Kind.EMPTY_OBJECT_NAME, "object_name is empty", where=annotations.where(row), fix=fix)


def _check_labels(annotations: Annotations, findings: Findings) -> None:
    codes, names = pd.factorize(annotations.frame[LABEL])
    for code, name in enumerate(map(str, names)):
        label = name.strip()
        if not label:
            kind, what, fix = Kind.EMPTY_LABEL, "the label is empty", f"Write {PASS}, or the kind of defect."
        elif label != PASS and label.upper() == PASS:
            fix = f"A good part is exactly {PASS}; anything else would count as a defect."
            kind, what = Kind.PASS_CASE, f"the label is {label!r}"
        elif label != name:
            kind, what, fix = Kind.LABEL_BLANKS, f"blanks around the label {name!r} are ignored", ""
        else:
            continue
        lines = annotations.lines[codes == code]
        problems = (Problem(what, f"{annotations.path}:{line}", fix) for line in lines)
        findings.add_many(kind, len(lines), problems)


def _report_encoding(path: str, findings: Findings) -> None:
    with Path(path).open("rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            findings.add(Kind.NOT_UTF8, "is UTF-16", where=path, fix="Save it as UTF-8.")
            return
        file.seek(0)
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                what = f"is not UTF-8 (byte 0x{line[error.start]:02x})"
                findings.add(Kind.NOT_UTF8, what, where=f"{path}:{number}", fix="Save it as UTF-8.")
