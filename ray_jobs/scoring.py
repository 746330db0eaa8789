"""Bulk scoring on Ray Data: the rows of a CSV file to scores that keep their row, whatever the number of workers.

Batches are cut by row index before they are distributed, and every batch is computed by one thread; a worker with
several CPUs works on several batches at once. So the number of workers and of CPUs changes the time, never a byte.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from changenet.data.annotations import Annotations
from changenet.data.findings import LISTED
from changenet.data.pairs import PairSource
from changenet.description import UNSCORED
from changenet.errors import DataError, Problem
from ray_jobs.console import progress
from ray_jobs.run_monitor import SLOW_START
from ray_jobs.score_parts import Columns, ScoreParts
from ray_jobs.scorer import ModelFile, Scorer
from ray_jobs.workers import Workers

logger = logging.getLogger(__name__)

NOTHING_YET = (
    "No worker has finished anything yet: others hold the CPUs or GPUs of the cluster, or batches are large. `ray status` tells "
    "which; resources_per_worker makes workers smaller."
)
UNITS = 1000  # of work at most, about; each is also a step of the progress bar


@dataclass(frozen=True, eq=False)
class Scored:
    """The result of every row, in the rows' order.

    Args:
        scores: (N,) the numbers that the CSV shows; NaN where the row could not be scored.
        predictions: (N,) PASS or FAIL, or the class; `ERROR` where the row could not be scored.
        errors: (N,) why not; empty where it could.
    """

    scores: NDArray[np.float64]
    predictions: NDArray[np.object_]
    errors: NDArray[np.object_]

    @property
    def good(self) -> NDArray[np.bool_]:
        """Which rows were scored."""
        return ~np.isnan(self.scores)

    def raise_errors(self, annotations: Annotations, *, written: str = "") -> None:
        """Raise a DataError that lists the rows without a score, if there are any: the first, then how many more.

        Args:
            annotations: The rows.
            written: The CSV file that holds all reasons, if there is one.
        """
        bad = np.flatnonzero(~self.good)
        problems = [Problem(str(self.errors[row]), annotations.where(row)) for row in bad[:LISTED].tolist()]
        if more := len(bad) - len(problems):
            fix = f"See column error of {written}." if written else ""
            problems.append(Problem(f"{more:,} more rows could not be scored", annotations.path, fix))
        if problems:
            raise DataError(problems)


def score_rows(
    source: PairSource,
    *,
    model: ModelFile,
    batch_size: int,
    workers: Workers,
    parts: ScoreParts | None = None,
    title: str = "Scoring",
) -> Scored:
    """Score every row on the cluster that is connected; a row that cannot be read never stops the others.

    Args:
        source: The rows and their pictures, which every node must reach.
        model: Opened by every worker.
        batch_size: Pairs a batch.
        workers: See `plan_workers`.
        parts: Where results are kept on the way; those that are there already are not scored again.
        title: Of the progress bar.
    """
    rows = len(source)
    done = np.zeros(rows, dtype=bool)
    scored = Scored(
        scores=np.full(rows, np.nan),
        predictions=np.full(rows, UNSCORED, dtype=object),
        errors=np.full(rows, "", dtype=object),
    )
    with progress() as bar:
        task = bar.add_task(title, total=rows)
        if parts is not None:
            before = parts.load(source)
            done[before["row"]] = True
            scored.scores[before["row"]] = before["score"]
            scored.predictions[before["row"]] = _shared(before["prediction"])
            if done.any():
                logger.info("Going on: %s of %s rows were scored before.", f"{done.sum():,}", f"{rows:,}")
            bar.advance(task, int(done.sum()))
        for block in _results(source, _units(done, batch_size, lanes=workers.threads), model, batch_size, workers):
            chosen = block["row"]
            done[chosen] = True
            scored.scores[chosen] = block["score"]
            scored.predictions[chosen], scored.errors[chosen] = _shared(block["prediction"]), _shared(block["error"])
            if parts is not None:
                parts.add(block)
            bar.advance(task, len(chosen))
    if not done.all():
        raise RuntimeError(f"{done.sum()} results for {rows} rows")
    return scored


def _results(
    source: PairSource, units: list[NDArray[np.int64]], model: ModelFile, batch_size: int, workers: Workers
) -> Iterator[Columns]:
    """Yield the results of whole batches as they come, in any order."""
    if not units:
        return
    import ray

    fewest, most = (min(number, len(units)) for number in workers.count)
    with _quiet_ray_data():
        items = [{"batches": unit} for unit in units]
        blocks = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Scorer,
            fn_constructor_kwargs={
                "model": model,
                "source": ray.put(source),
                "batch_size": batch_size,
                "lanes": workers.threads,
                "device": "cuda" if workers.use_gpu else "cpu",
            },
            batch_size=None,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(min_size=fewest, max_size=most),
            num_cpus=workers.cpus,
            num_gpus=1 if workers.use_gpu else 0,
            resources=workers.resources or None,
        )
        late = threading.Timer(SLOW_START, logger.warning, [NOTHING_YET])
        late.daemon = True
        late.start()
        try:
            for block in blocks.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                late.cancel()
                yield block
        finally:
            late.cancel()


def _units(done: NDArray[np.bool_], batch_size: int, *, lanes: int) -> list[NDArray[np.int64]]:
    """Cut the batches with rows that are not done into units of work, each enough to keep a worker's lanes busy.

    Returns:
        The first row of every batch of each unit.
    """
    batches = np.unique(np.flatnonzero(~done) // batch_size) * batch_size
    step = max(2 * lanes, math.ceil(len(batches) / UNITS))
    return [batches[first : first + step] for first in range(0, len(batches), step)]


def _shared(texts: NDArray[Any]) -> list[str]:
    """Return texts of which equal ones are one object: ten million rows know few."""
    return [sys.intern(str(text)) for text in texts.tolist()]


@contextlib.contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Keep Ray Data's own bars and plans off the terminal: ours is there."""
    import ray

    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, context.print_on_execution_start, log.level
    context.enable_progress_bars, context.print_on_execution_start = False, False
    log.setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that the bars are off
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before[:2]
        log.setLevel(before[2])
