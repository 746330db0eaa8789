"""The worker of bulk scoring: opens a trained network once, then turns batches of rows into scores.

It reads the pictures of a batch itself: no process waits for another one's CPU, and pictures never travel.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import SecretStr

from changenet.data.pairs import PairSource
from changenet.description import UNSCORED
from changenet.engines.tensorrt_files import RUNTIME, is_engine_file
from changenet.errors import DataError, EngineError, Problem
from changenet.inspection import Inspector
from changenet.training.memory import keep_freed_memory
from ray_jobs.score_parts import Columns

if TYPE_CHECKING:
    from changenet.training.checkpoint import Describe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelFile:
    """A trained network as every worker opens it.

    Args:
        path: A checkpoint, a bundle or a TensorRT engine, reachable from every node.
        engine: `auto`, `torch`, `onnxruntime` or `tensorrt`.
        encryption_key: Opens encrypted model files; wrapped, because Ray Data notes the arguments of its workers.
        threshold: What to decide by; None for the network's own.
        describe: Says what network a TAO checkpoint holds.
        precision: `fp32` or, with PyTorch, `bf16`.
        compiled: Let `torch.compile` write PyTorch's code.
    """

    path: str
    engine: str = "auto"
    encryption_key: SecretStr | None = None
    threshold: float | None = None
    describe: Describe | None = None
    precision: str = "fp32"
    compiled: bool = False

    @property
    def runs_tensorrt(self) -> bool:
        """Whether only a GPU will do."""
        return self.engine == RUNTIME or (self.engine == "auto" and is_engine_file(self.path))

    def load(self, *, threads: int | None = None, device: str = "cpu") -> Inspector:
        """Open it (raises as `Inspector.load`, and EngineError where integers do not give the bundle's own scores here)."""
        key = self.encryption_key.get_secret_value() if self.encryption_key else None
        inspector = Inspector.load(
            self.path,
            self.engine,
            encryption_key=key,
            threads=threads,
            device=device,
            precision=self.precision,
            compiled=self.compiled,
            describe=self.describe,
        )
        if inspector.engine.precision != "fp32" or device != "cpu":
            # Where a machine may compute other scores than the one that exported: integers, halves of floats, GPUs.
            inspector.self_test()
        return inspector if self.threshold is None else inspector.with_threshold(self.threshold)


class Scorer:
    """A Ray Data worker: opens the network once, then turns batches of rows into scores.

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
        try:
            self._inspector = model.load(threads=1, device=device)
        except EngineError as error:
            if device == "cpu":
                raise
            logger.warning("This worker scores on the CPU: %s", error)
            self._inspector, device = model.load(threads=1), "cpu"
        self._source: PairSource = ray.get(source) if isinstance(source, ray.ObjectRef) else source
        self._batch_size = batch_size
        self._lanes = ThreadPoolExecutor(lanes)
        self._one_at_a_time = threading.Lock() if device != "cpu" else contextlib.nullcontext()

    def __call__(self, units: Columns) -> Iterator[Columns]:
        """Yield `row`, `score`, `prediction`, `error` and `stamp` of every batch, given the first rows of the `batches`."""
        firsts = [first for unit in units["batches"] for first in unit.tolist()]
        batches = [range(first, min(first + self._batch_size, len(self._source))) for first in firsts]
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


def _in_one_cell(error: DataError) -> str:
    """Return the problems without their place, which the row itself tells."""
    return "; ".join(str(Problem(problem.what, fix=problem.fix)) for problem in error.problems)
