"""The models of one replica: pictures are decoded in a few threads, each engine runs in a thread of its own.

The event loop only waits; so health routes and the page answer while pictures are compared.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from changenet.errors import CheckpointError, EngineError
from changenet.inspection import Inspector, Verdict
from changenet.storage import sha256
from serve.batching import BatchQueue
from serve.decoding import decoded
from serve.form import PairForm, Picture
from serve.golden_cache import GoldenCache
from serve.golden_registry import GoldenRegistry
from serve.metrics import Metrics
from serve.model_goldens import ModelGoldens
from serve.pairs import Comparer, Golden, Pair
from serve.problems import HttpError, try_again
from serve.schemas import Input, ModelFacts, ThresholdFacts
from serve.settings import Batching
from serve.threads import run_in

logger = logging.getLogger(__name__)

FAILURES = 3  # of an engine in a row, after which its replica is told to be ill
BOARDS_AT_ONCE = 8  # a model's; further ones wait, so that not all of their rows lie decoded in memory


@dataclass(frozen=True)
class Shared:
    """What the models of a replica share.

    Args:
        decoders: Threads that decode pictures.
        readers: Threads for what has to do with registered goldens, whose folder may be slow: it must not stop the others.
        picture_pixels: Limit on the pixels of an uploaded picture.
        cache: Encoded goldens.
        registry: Registered goldens, where there is a folder for them.
        metrics: Counts what they do.
    """

    decoders: ThreadPoolExecutor
    readers: ThreadPoolExecutor
    picture_pixels: int
    cache: GoldenCache
    registry: GoldenRegistry | None = None
    metrics: Metrics = field(default_factory=Metrics)


@dataclass(frozen=True)
class Inspected:
    """A verdict, whether every golden had been encoded before, and the seconds it took."""

    verdict: Verdict
    golden_cached: bool
    decode_seconds: float
    engine_seconds: float


class ServedModel:
    """One model, loaded and ready.

    Args:
        name: The name that clients use.
        version: The bundle's version.
        inspector: Decides.
        shared: What it shares with the other models.
        batching: How pictures share engine calls.
    """

    def __init__(
        self, *, name: str, version: str, inspector: Inspector, shared: Shared, batching: Batching | None = None
    ) -> None:
        self.name = name
        self.version = version
        self.inspector = inspector
        self.shared = shared
        self.goldens = ModelGoldens(self)
        self._comparer = Comparer(inspector.engine, num_golden=inspector.description.num_golden)
        self.boards = asyncio.Semaphore(BOARDS_AT_ONCE)
        self._failures = 0  # of the engine, since it succeeded last
        self.observer: Callable[[PairForm, Verdict], None] | None = None  # told of every verdict
        self.queue: BatchQueue[Pair, NDArray[np.float32]] = BatchQueue(
            name=f"engine-{name}",
            work=self._compare,
            size=lambda pair: pair.pictures,
            settings=batching or Batching(),
        )

    @cached_property
    def identity(self) -> str:
        """Names what computes: other engines make other numbers of the same bundle."""
        bundle = self.inspector.bundle
        entries = bundle.manifest.engines if bundle else ()
        files = sorted(
            digest for each in entries if each.runtime == self.inspector.engine_name for digest in each.sha256.values()
        )
        return f"{self.version}-{self.inspector.engine_name}-{sha256(''.join(files).encode())[:12]}"

    async def inspect(self, form: PairForm) -> Inspected:
        """Decide one pair.

        Raises:
            HttpError: A picture is none (415), too large (413) or unreadable (400), the golden is unknown (404), its folder
                is away or the engine failed (503), or the score is no number (422).
        """
        started = time.perf_counter()
        threads = self.shared.decoders if form.golden_id is None else self.shared.readers
        # In one thread: the way to a second one takes longer than most goldens do, which are kept.
        pair = await run_in(threads, lambda: Pair(self.decode(form.test, "test"), self.goldens.of(form)))
        decoded = time.perf_counter()
        output = await self.queue.submit(pair, urgent=form.row is None)
        inspector = self.inspector if form.threshold is None else self.inspector.with_threshold(form.threshold)
        (verdict,) = inspector.verdicts(output[np.newaxis])
        if not math.isfinite(verdict.score):
            detail = "The network gives no number for this pair, so nothing can be said about it."
            raise HttpError(422, "no-score", detail)
        if self.observer:
            self.observer(form, verdict)
        inspected = Inspected(verdict, pair.pictures == 1, decoded - started, time.perf_counter() - decoded)
        self._count(inspected)
        return inspected

    def decode(self, picture: Picture, role: str) -> NDArray[np.uint8]:
        """Return the pixels (3, H, W) of a picture (raises as `inspect`); `role` is what a problem calls it."""
        try:
            return decoded(self.inspector, picture, role, max_pixels=self.shared.picture_pixels)
        except HttpError as error:
            self.shared.metrics.picture_error(self.name, error.kind)
            raise

    async def outputs(self, test: NDArray[np.float32], golden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the pair graph gives for normalised pictures (shapes as `Engine.pair`).

        Raises:
            HttpError: 422, the engine refuses them; 503, it failed, or the bundle changed on the disk.
        """

        def run() -> NDArray[np.float32]:
            with self._computing(len(test)):
                try:
                    return self.inspector.engine.pair(test, golden)
                except EngineError as error:  # a batch larger than a TensorRT engine or the memory takes
                    raise HttpError(422, "wrong-tensors", f"The engine refuses these tensors: {error}") from error
                except CheckpointError as error:  # the pair graph is read when it is first asked for
                    logger.error("The bundle of %r is not what was loaded any more: %s", self.name, error)
                    raise try_again(
                        "bundle-changed", "The bundle of this model changed on the disk: swap to it."
                    ) from error

        return await self.queue.run(run)

    def warm_up(self) -> None:
        """Compare a black pair, and as many as one call may hold, so that no client waits for what the engine prepares.

        Raises:
            EngineError: It cannot compare as many.
        """
        shape = self.inspector.description.layout.shape
        pair = Pair(np.zeros(shape, np.uint8), (Golden(("",), pixels=np.zeros(shape, np.uint8)),))
        for pairs in (1, self.queue.settings.max_batch_size):
            try:
                self._comparer([pair] * pairs, cache=GoldenCache(0))
            except Exception as error:
                what, fix = f"cannot compare {pairs} pairs at once ({error})", "Lower serve.max_batch_size."
                raise EngineError(what, where=f"the engine of {self.name!r}", fix=fix) from error

    def check_health(self) -> None:
        """Raise what the engine failed with, where it did so several times and never succeeded since."""
        if self._failures >= FAILURES:
            raise EngineError(f"failed {self._failures} times in a row", where=f"the engine of {self.name!r}")

    def _compare(self, pairs: Sequence[Pair]) -> list[NDArray[np.float32]]:
        with self._computing(len(pairs)):
            return list(self._comparer(pairs, cache=self.shared.cache))

    @contextmanager
    def _computing(self, pairs: int) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except HttpError:
            raise
        except Exception as error:
            self._failures += 1
            logger.exception("The engine of %r failed on %d pairs", self.name, pairs)
            raise try_again("engine-failed", f"The engine of {self.name!r} failed; its log has the reason.") from error
        self._failures = 0
        self.shared.metrics.engine_call(self.name, pairs=pairs, seconds=time.perf_counter() - started)

    def _count(self, inspected: Inspected) -> None:
        metrics, verdict = self.shared.metrics, inspected.verdict
        metrics.stage(self.name, "decode", inspected.decode_seconds)
        metrics.stage(self.name, "engine", inspected.engine_seconds)
        metrics.golden(self.name, cached=inspected.golden_cached)
        metrics.decision(
            self.name,
            self.version,
            description=self.inspector.description,
            score=verdict.score,
            prediction=verdict.prediction,
        )

    def facts(self) -> ModelFacts:
        """Return what clients may know about the model."""
        description = self.inspector.description
        threshold = description.threshold
        return ModelFacts(
            name=self.name,
            version=self.version,
            engine=self.inspector.engine_name,
            difference_module=description.difference_module,
            backbone=description.network["backbone"],
            classes=list(description.classes),
            input=Input(
                **description.layout.to_dict(), mean=description.network["mean"], std=description.network["std"]
            ),
            num_golden=description.num_golden,
            threshold=ThresholdFacts(**asdict(threshold)),
            validation_scores=description.validation_scores,
            metrics=description.metrics,
            versions=description.versions,
            data_hash=description.data_hash,
        )
