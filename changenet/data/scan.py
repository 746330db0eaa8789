"""The whole check of a data set: every row and every picture of every split, and all trouble at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from changenet.data.annotations import Annotations, check_result_columns, parse_annotations
from changenet.data.findings import Findings
from changenet.data.kinds import LABEL_ERRORS, Kind
from changenet.data.paths import PicturePaths
from changenet.data.scan_rows import (
    GOLDEN,
    PictureRules,
    RowChecker,
    Rows,
    RowsResult,
    check_in_worker,
    golden_files,
    start_worker,
)
from changenet.data.scan_sets import ScannedSplit, compare_rows, find_brightness_outliers, find_other_labels
from changenet.description import BINARY_CLASSES
from changenet.errors import Problem

_CHUNK = 128  # rows a task
_IN_PROCESS = 1000  # rows: below that a process pool takes longer to start than the work does


@dataclass(frozen=True)
class Split:
    """One CSV file of the experiment.

    Args:
        name: `train`, `validation`, `test` or `infer`.
        csv_path: The rows.
        images_dir: The folder that holds all pictures.
        labelled: Whether labels are needed; `infer` is not.
        scored: Whether its rows are written again beside their results, as those of `test` and `infer`.
    """

    name: str
    csv_path: str
    images_dir: str
    labelled: bool = True
    scored: bool = False


@dataclass(frozen=True)
class ScanReport:
    """What a scan found.

    Args:
        rows: Of each split, by name.
        findings: Errors and warnings.
    """

    rows: dict[str, int] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)

    def raise_errors(self) -> None:
        """Raise a `DataError` with all errors, if there are any."""
        self.findings.raise_errors()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"ok": not self.findings.has_errors, "rows": self.rows, "findings": self.findings.to_dict()}


def scan(
    splits: Sequence[Split],
    *,
    rules: PictureRules,
    classes: Sequence[str] = BINARY_CLASSES,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ScanReport:
    """Look at every row and picture.

    Args:
        splits: The CSV files.
        rules: How rows become picture files.
        classes: With real classes every label must be one of them; by default any label but PASS is a defect.
        workers: Processes; None = one a core that this process may use.
        progress: Called with (rows done, rows in all).

    Returns:
        The report; nothing is raised for what is wrong with the data.
    """
    findings, report_rows = Findings(), {}
    tables: list[tuple[Split, Annotations]] = []
    judged = set()  # splits whose labels mean what they say: comparing wrong ones would only repeat the errors
    for split in splits:
        table, found = parse_annotations(split.csv_path, require_label=split.labelled)
        findings.extend(found)
        if split.scored and table is not None:
            check_result_columns(table, findings)
        if not Path(split.images_dir).is_dir():
            what, fix = "images_dir is not a folder", f"Check images_dir of {split.name}."
            findings.add(Kind.MISSING_IMAGES_DIR, what, where=split.images_dir, fix=fix)
        elif table is not None:
            tables.append((split, table))
        if split.labelled and not found.counts.keys() & LABEL_ERRORS:
            judged.add(split.name)
        report_rows[split.name] = 0 if table is None else len(table)
    scanned = [
        ScannedSplit(
            name=split.name,
            annotations=table,
            tests=np.zeros(len(table), np.uint64),
            pairs=np.zeros(len(table), np.uint64),
            labelled=split.name in judged,
        )
        for split, table in tables
    ]
    goldens: list[tuple[int, NDArray[np.void]]] = []
    done, total = 0, sum(len(table) for _, table in tables)
    for result in _results(_chunks(tables), total, rules, workers):
        _take(result, scanned[result.split], findings)
        goldens.append((result.split, result.goldens))
        done += len(result.tests)
        if progress is not None:
            progress(done, total)
    if tuple(classes) != BINARY_CLASSES:
        find_other_labels(scanned, classes, findings)
    compare_rows(scanned, findings)
    _compare_goldens(goldens, tables, rules, findings)
    return ScanReport(report_rows, findings)


def _take(result: RowsResult, split: ScannedSplit, findings: Findings) -> None:
    stop = result.start + len(result.tests)
    split.tests[result.start : stop] = result.tests
    split.pairs[result.start : stop] = result.pairs
    for row, kind, what, picture, fix in result.found:
        text = f"{picture}: {what}" if picture else what
        findings.add(kind, text, where=split.annotations.where(row), fix=fix)


def _compare_goldens(
    goldens: Sequence[tuple[int, NDArray[np.void]]],
    tables: Sequence[tuple[Split, Annotations]],
    rules: PictureRules,
    findings: Findings,
) -> None:
    facts = np.concatenate([np.empty(0, GOLDEN), *(part for _, part in goldens)])
    owner = np.repeat([number for number, _ in goldens] or [0], [len(part) for _, part in goldens] or [0])

    def name(index: int) -> Problem:
        split, table = tables[owner[index]]
        row = int(facts["row"][index])
        cells = table.frame.iloc[row]
        paths = PicturePaths(split.images_dir, image_ext=rules.image_ext, lights=rules.lights)
        files = golden_files(paths, rules, cells["golden_path"], cells["object_name"])
        return Problem(files[facts["golden"][index]][facts["light"][index]], table.where(row))

    find_brightness_outliers(facts, findings, name)


def _chunks(tables: Sequence[tuple[Split, Annotations]]) -> Iterator[Rows]:
    for number, (split, table) in enumerate(tables):
        columns = table.frame[["input_path", "golden_path", "object_name"]]
        for start in range(0, len(columns), _CHUNK):
            part = columns.iloc[start : start + _CHUNK]
            yield Rows(
                split=number,
                images_dir=split.images_dir,
                start=start,
                inputs=part["input_path"].tolist(),
                goldens=part["golden_path"].tolist(),
                names=part["object_name"].tolist(),
            )


def _results(chunks: Iterator[Rows], total: int, rules: PictureRules, workers: int | None) -> Iterator[RowsResult]:
    """Yield the results in the order of the chunks, so that a report does not depend on timing."""
    workers = workers or len(os.sched_getaffinity(0))
    if workers == 1 or total < _IN_PROCESS:
        yield from map(RowChecker(rules).check, chunks)
        return
    # Spawned, not forked: the caller may hold threads (a progress bar, a tracking client).
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=start_worker, initargs=(rules,)) as pool:
        waiting: deque[Future[RowsResult]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(check_in_worker, chunk))
                if len(waiting) >= 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            with contextlib.suppress(Exception):
                pool.shutdown(wait=False, cancel_futures=True)
