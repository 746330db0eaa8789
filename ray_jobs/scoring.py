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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr

from changenet import storage
from changenet.data.annotations import Annotations
from changenet.data.pairs import PairSource
from changenet.description import UNSCORED
from changenet.errors import DataError, Problem
from changenet.inspection import Inspector
from changenet.training.memory import keep_freed_memory
from ray_jobs.console import progress
from ray_jobs.score_parts import Columns, ScoreParts
from ray_jobs.workers import Workers

if TYPE_CHECKING:
    from changenet.training.checkpoint import Describe

logger = logging.getLogger(__name__)

COLUMNS = ("siamese_score", "prediction", "error")
UNITS = 1000  # of work at most, about; each is also a step of the progress bar


@dataclass(frozen=True)
class ModelFile:
    """A trained network as every worker opens it.

    Args:
        path: A checkpoint or a bundle, reachable from every node.
        engine: `auto`, `torch`, `onnxruntime` or `tensorrt`.
        encryption_key: Opens encrypted model files; wrapped, because Ray Data notes the arguments of its workers.
        threshold: What to decide by; None for the network's own.
        describe: Says what network a TAO checkpoint holds.
    """

    path: str
    engine: str = "auto"
    encryption_key: SecretStr | None = None
    threshold: float | None = None
    describe: Describe | None = None

    def load(self, *, threads: int | None = None, device: str = "cpu") -> Inspector:
        """Open it (raises as `Inspector.load`)."""
        key = self.encryption_key.get_secret_value() if self.encryption_key else None
        inspector = Inspector.load(
            self.path, self.engine, encryption_key=key, threads=threads, device=device, describe=self.describe
        )
        return inspector if self.threshold is None else inspector.with_threshold(self.threshold)


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

    def raise_errors(self, annotations: Annotations) -> None:
        """Raise a DataError that lists every row without a score, if there is one."""
        rows = np.flatnonzero(~self.good)
        if len(rows):
            raise DataError([Problem(str(self.errors[row]), annotations.where(row)) for row in rows.tolist()])


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
                logger.info("Going on: %d of %d rows were scored before.", done.sum(), rows)
            bar.advance(task, int(done.sum()))
        for block in _results(source, _ranges(done, batch_size, lanes=workers.threads), model, batch_size, workers):
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
    source: PairSource, ranges: list[dict[str, int]], model: ModelFile, batch_size: int, workers: Workers
) -> Iterator[Columns]:
    """Yield the results of whole batches as they come, in any order."""
    if not ranges:
        return
    import ray

    with _quiet_ray_data():
        blocks = ray.data.from_items(ranges, override_num_blocks=len(ranges)).map_batches(
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
            compute=ray.data.ActorPoolStrategy(min_size=workers.count[0], max_size=workers.count[1]),
            num_cpus=workers.cpus,
            num_gpus=1 if workers.use_gpu else 0,
            resources=workers.resources or None,
        )
        yield from blocks.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)


def write_scores(path: str, annotations: Annotations, scored: Scored) -> None:
    """Write a CSV: every input column untouched, then `siamese_score`, `prediction` and `error`.

    Columns of these three names in the input are an earlier run's and are replaced.

    Args:
        path: Local path or URI.
        annotations: The rows.
        scored: Their results.
    """
    table = annotations.frame.drop(columns=[name for name in COLUMNS if name in annotations.frame])
    score, prediction, error = COLUMNS
    table[score] = ["" if math.isnan(value) else repr(value) for value in scored.scores.tolist()]
    table[prediction] = scored.predictions
    table[error] = scored.errors
    with storage.atomic_write(path) as file:
        table.to_csv(file, index=False, lineterminator="\n", mode="wb")


class Scorer:
    """A Ray Data worker: opens the network once, then turns ranges of rows into scores.

    Args:
        model: What to open.
        source: The rows, or a reference to them in Ray's object store.
        batch_size: Pairs a batch.
        lanes: Batches in work at the same time, one thread each.
        device: `cpu` or `cuda`; a GPU takes one batch at a time while others are read.
    """

    def __init__(self, *, model: ModelFile, source: Any, batch_size: int, lanes: int, device: str) -> None:
        import ray

        if device == "cpu":
            keep_freed_memory()
        # One thread a batch: the result of a sum depends on how many threads share it.
        self._inspector = model.load(threads=1, device=device)
        self._source: PairSource = ray.get(source) if isinstance(source, ray.ObjectRef) else source
        self._batch_size = batch_size
        self._lanes = ThreadPoolExecutor(lanes)
        self._one_at_a_time = threading.Lock() if device != "cpu" else contextlib.nullcontext()

    def __call__(self, ranges: Columns) -> Iterator[Columns]:
        """Yield `row`, `score`, `prediction`, `error` and `stamp` of every batch of the ranges `start` to `stop`."""
        batches = [
            range(first, min(first + self._batch_size, int(stop)))
            for start, stop in zip(ranges["start"], ranges["stop"], strict=True)
            for first in range(int(start), int(stop), self._batch_size)
        ]
        yield from self._lanes.map(self._score, batches)

    def _score(self, rows: range) -> Columns:
        score = np.full(len(rows), np.nan)
        prediction = np.full(len(rows), UNSCORED, dtype=object)
        error = np.full(len(rows), "", dtype=object)
        stamp = np.zeros(len(rows), dtype=np.int64)
        pairs = []
        for place, row in enumerate(rows):
            try:
                stamp[place] = self._source.stamp(row)  # before reading: a picture changed in between is noticed
                pairs.append((place, *self._source.read(row)))
            except DataError as problem:
                error[place] = _in_one_cell(problem)
        if pairs:
            places, tests, goldens = zip(*pairs, strict=True)
            with self._one_at_a_time:
                verdicts = self._inspector.inspect_arrays(np.stack(tests), np.stack(goldens))
            for place, verdict in zip(places, verdicts, strict=True):
                if math.isfinite(verdict.score):
                    score[place], prediction[place] = verdict.score, verdict.prediction
                else:
                    error[place] = "the network gave no finite score"
        numbers = np.arange(rows.start, rows.stop)
        return {"row": numbers, "score": score, "prediction": prediction, "error": error, "stamp": stamp}


def _ranges(done: NDArray[np.bool_], batch_size: int, *, lanes: int) -> list[dict[str, int]]:
    """Cut the rows that are not done into units of work: whole batches, enough of them to keep a worker's lanes busy."""
    batches = np.unique(np.flatnonzero(~done) // batch_size)
    step = max(2 * lanes, math.ceil(len(batches) / UNITS))
    runs = np.split(batches, np.flatnonzero(np.diff(batches) != 1) + 1)
    units = (run[first : first + step] for run in runs for first in range(0, len(run), step))
    return [
        {"start": int(unit[0]) * batch_size, "stop": min(int(unit[-1] + 1) * batch_size, len(done))} for unit in units
    ]


def _shared(texts: NDArray[Any]) -> list[str]:
    """Return texts of which equal ones are one object: ten million rows know few."""
    return [sys.intern(str(text)) for text in texts.tolist()]


def _in_one_cell(error: DataError) -> str:
    """Return the problems without their place, which the row itself tells."""
    return "; ".join(str(Problem(problem.what, fix=problem.fix)) for problem in error.problems)


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
