"""What the check finds only by comparing rows: duplicates, contradictions, leaks between splits, imbalance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from changenet.data.annotations import Annotations
from changenet.data.findings import Findings
from changenet.data.kinds import Kind
from changenet.description import PASS
from changenet.errors import Problem

IMBALANCE = 0.05
"""A class with a smaller share of the rows is warned about."""
_OUTLIER = 5.0  # robust standard deviations
_LEAST_DIFFERENCE = 20.0  # grey levels of 255
_LEAST_GOLDENS = 8
_MAD_TO_DEVIATION = 1.4826  # of a normal distribution

Digests = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class ScannedSplit:
    """The rows of a split with the digest of each test picture and of each pair; 0 = could not be read."""

    name: str
    annotations: Annotations
    tests: Digests
    pairs: Digests
    labelled: bool


def compare_rows(splits: Sequence[ScannedSplit], findings: Findings) -> None:
    """Add what shows only when rows are compared."""
    for split in splits:
        _find_duplicates(split, findings)
        if split.labelled:
            _find_imbalance(split, findings)
    _find_contradictions([split for split in splits if split.labelled], findings)
    _find_leaks(splits, findings)
    training = next((split for split in splits if split.labelled and split.name == "train"), None)
    if training is not None:
        for split in splits:
            if split.labelled and split is not training:
                _find_unseen_labels(split, training, findings)


def find_other_labels(splits: Sequence[ScannedSplit], classes: Sequence[str], findings: Findings) -> None:
    """Add the rows whose label is none of the classes."""
    for split in splits:
        if split.labelled:
            rows = np.flatnonzero(~np.isin(_labels(split).astype(str), classes))
            fix = f"The classes are {', '.join(classes)}."
            problems = (
                Problem(f"the label {_labels(split)[row]!r} is no class", split.annotations.where(row), fix)
                for row in rows.tolist()
            )
            findings.add_many(Kind.NOT_A_CLASS, len(rows), problems)


def find_brightness_outliers(goldens: NDArray[np.void], findings: Findings, name: Callable[[int], Problem]) -> None:
    """Add goldens far darker or brighter than the others of the same light.

    Args:
        goldens: Structured array of `scan_rows.GOLDEN`, of all splits.
        findings: Where to add.
        name: From an index into `goldens` to a problem whose `what` is the file and `where` the row.
    """
    _, distinct = np.unique(goldens["key"], return_index=True)
    distinct.sort()
    for light in np.unique(goldens["light"]).tolist():
        these = distinct[goldens["light"][distinct] == light]
        if len(these) < _LEAST_GOLDENS:
            continue
        values = goldens["brightness"][these].astype(np.float64)
        middle = float(np.median(values))
        deviation = _MAD_TO_DEVIATION * float(np.median(np.abs(values - middle)))
        far = these[np.abs(values - middle) > max(_OUTLIER * deviation, _LEAST_DIFFERENCE)]
        problems = (
            Problem(
                f"{problem.what}: mean brightness {goldens['brightness'][index]:.0f}, of most goldens {middle:.0f}",
                problem.where,
                "Look whether it is a good picture.",
            )
            for index in far.tolist()
            for problem in [name(index)]
        )
        findings.add_many(Kind.BRIGHTNESS, len(far), problems)


def _groups(digests: Digests) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return (rows, first): every readable row that repeats a digest, and the first row with that digest."""
    readable = np.flatnonzero(digests)
    _, first, inverse = np.unique(digests[readable], return_index=True, return_inverse=True)
    firsts = readable[first[inverse]]
    again = firsts != readable
    return readable[again], firsts[again]


def _find_duplicates(split: ScannedSplit, findings: Findings) -> None:
    rows, firsts = _groups(split.pairs)
    where = split.annotations.where
    problems = (
        Problem(f"the same test picture and golden as line {split.annotations.lines[first]}", where(int(row)))
        for row, first in zip(rows, firsts, strict=True)
    )
    findings.add_many(Kind.DUPLICATE, len(rows), problems)


def _find_contradictions(splits: Sequence[ScannedSplit], findings: Findings) -> None:
    if not splits:
        return
    labels = np.concatenate([_labels(split) for split in splits])
    rows, firsts = _groups(np.concatenate([split.tests for split in splits]))
    differ = labels[rows] != labels[firsts]
    rows, firsts = rows[differ], firsts[differ]
    problems = (
        Problem(
            f"the label is {labels[row]!r}, but the same test picture is {labels[first]!r} at {_where(splits, first)}",
            _where(splits, row),
            "Correct one of them.",
        )
        for row, first in zip(rows, firsts, strict=True)
    )
    findings.add_many(Kind.CONTRADICTORY_LABELS, len(rows), problems)


def _find_leaks(splits: Sequence[ScannedSplit], findings: Findings) -> None:
    if not splits:
        return
    owner = np.repeat(np.arange(len(splits)), [len(split.tests) for split in splits])
    rows, firsts = _groups(np.concatenate([split.tests for split in splits]))
    differ = owner[rows] != owner[firsts]
    rows, firsts = rows[differ], firsts[differ]
    problems = (
        Problem(
            f"the same test picture ({splits[owner[row]].name}) is also in {splits[owner[first]].name}: "
            f"{_where(splits, first)}",
            _where(splits, row),
            "Scores on it say nothing about new boards.",
        )
        for row, first in zip(rows, firsts, strict=True)
    )
    findings.add_many(Kind.IN_TWO_SPLITS, len(rows), problems)


def _where(splits: Sequence[ScannedSplit], index: int) -> str:
    for split in splits:
        if index < len(split.tests):
            return split.annotations.where(int(index))
        index -= len(split.tests)
    raise IndexError(index)


def _labels(split: ScannedSplit) -> NDArray[np.object_]:
    assert split.annotations.labels is not None
    return split.annotations.labels


def _find_imbalance(split: ScannedSplit, findings: Findings) -> None:
    rows, where = len(split.annotations), split.annotations.path
    if not rows:
        return
    defects = int(split.annotations.is_defect.sum())
    if defects in (0, rows):
        only = "defects" if defects else PASS
        fix = "Training needs both." if split.name == "train" else "Half of the metrics will be undefined."
        findings.add(Kind.ONE_CLASS, f"all {rows} rows are {only}", where=where, fix=fix)
    elif min(defects, rows - defects) < IMBALANCE * rows:
        what = f"{rows - defects} rows are {PASS} and {defects} are defects ({defects / rows:.2%})"
        fix = "Training draws by fpratio_sampling; figures about the rare class rest on few rows."
        findings.add(Kind.IMBALANCE, what, where=where, fix=fix)


def _find_unseen_labels(split: ScannedSplit, training: ScannedSplit, findings: Findings) -> None:
    labels = _labels(split)
    unseen = set(labels.tolist()) - set(_labels(training).tolist())
    for label in sorted(unseen):
        rows = np.flatnonzero(labels == label)
        what = f"no training row has the label {label!r} ({len(rows)} rows of {split.name} have)"
        findings.add(Kind.UNSEEN_LABEL, what, where=split.annotations.where(int(rows[0])), count=len(rows))
