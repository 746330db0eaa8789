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
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from changenet.errors import DataError, EngineError
from changenet.inspection import Inspector, Verdict
from changenet.storage import sha256
from serve.batching import BatchQueue
from serve.decoding import decoded
from serve.form import PairForm, Picture
from serve.golden_cache import GoldenCache, Key
from serve.golden_registry import GoldenRegistry, Registered
from serve.metrics import Metrics
from serve.pairs import Golden, Pair, compare_pairs
from serve.problems import HttpError, try_again
from serve.schemas import Input, ModelFacts, ThresholdFacts
from serve.settings import Batching

Result = TypeVar("Result")

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
        self.boards = asyncio.Semaphore(BOARDS_AT_ONCE)
        self._failures = 0  # of the engine, since it succeeded last
        self.observer: Callable[[PairForm, Verdict], None] | None = None  # told of every verdict
        self.queue: BatchQueue[Pair, NDArray[np.float32]] = BatchQueue(
            name=f"engine-{name}",
            work=self._compare,
            size=lambda pair: pair.pictures,
            settings=batching or Batching(),
        )

    @property
    def identity(self) -> str:
        """Names what computes: other engines make other numbers of the same bundle."""
        return f"{self.version}-{self.inspector.engine_name}"

    async def inspect(self, form: PairForm) -> Inspected:
        """Decide one pair.

        Raises:
            HttpError: A picture is none (415), too large (413) or unreadable (400), the golden is unknown (404), its folder
                is away or the engine failed (503), or the score is no number (422).
        """
        started = time.perf_counter()
        threads = self.shared.decoders if form.golden_id is None else self.shared.readers
        # In one thread: the way to a second one takes longer than most goldens do, which are kept.
        pair = await _in(threads, lambda: Pair(self._decode(form.test, "test"), self._goldens(form)))
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

    async def outputs(self, test: NDArray[np.float32], golden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the pair graph gives for normalised pictures (shapes as `Engine.pair`).

        Raises:
            HttpError: 422, the engine refuses them.
        """

        def run() -> NDArray[np.float32]:
            with self._computing(len(test)):
                return self.inspector.engine.pair(test, golden)

        try:
            return await self.queue.run(run)
        except EngineError as error:  # a batch larger than a TensorRT engine or the memory takes
            raise HttpError(422, "wrong-tensors", f"The engine refuses these tensors: {error}") from error

    def check_health(self) -> None:
        """Raise what the engine failed with, where it did so several times and never succeeded since."""
        if self._failures >= FAILURES:
            raise EngineError(f"failed {self._failures} times in a row", where=f"the engine of {self.name!r}")

    async def register(self, golden_id: str, goldens: Sequence[Picture]) -> tuple[Registered, bool]:
        """Keep goldens under an id; say whether they replace others (raises as `inspect`)."""
        registry = self._registry()

        def checked() -> tuple[Registered, bool]:
            for golden in goldens:
                self._decode(golden, "golden")
            return registry.put(self.name, golden_id, goldens)

        return await _in(self.shared.readers, checked)

    async def registered(self, golden_id: str) -> Registered:
        """Return what is registered under an id (404 where nothing is)."""
        return await _in(self.shared.readers, self._record, golden_id)

    async def forget(self, golden_id: str) -> None:
        """Forget a registered golden (404 where there is none); what was made of it gives way to others in the caches."""
        if not await _in(self.shared.readers, self._registry().forget, self.name, golden_id):
            raise _no_such_golden(golden_id)

    def golden_of(self, golden_id: str, picture: dict[str, str]) -> Golden:
        """Return one picture of a registered golden, by the SHA-256 of its lights; decoded unless it is in the cache.

        Raises:
            DataError: It is gone or damaged.
            HttpError: It has other lights, or cannot be decoded.
        """
        lights = self.inspector.description.layout.lights
        if picture.keys() != set(lights):
            raise _no_such_golden(golden_id, "was registered with other lights")
        key: Key = (self.identity, *(picture[light] for light in lights))
        if halves := self.shared.cache.get(key):
            return Golden(key, halves)
        registry = self._registry()
        contents = {light: registry.read(self.name, golden_id, digest) for light, digest in picture.items()}
        return Golden(key, pixels=self._decode(contents, f"golden {golden_id}"))

    def _compare(self, pairs: Sequence[Pair]) -> list[NDArray[np.float32]]:
        num_golden = self.inspector.description.num_golden
        try:
            with self._computing(len(pairs)):
                output = compare_pairs(self.inspector.engine, pairs, num_golden=num_golden, cache=self.shared.cache)
        except Exception as error:
            self._failures += 1
            logger.exception("The engine of %r failed on %d pairs", self.name, len(pairs))
            raise try_again("engine-failed", f"The engine of {self.name!r} failed; its log has the reason.") from error
        self._failures = 0
        return list(output)

    @contextmanager
    def _computing(self, pairs: int) -> Iterator[None]:
        started = time.perf_counter()
        yield
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

    def _goldens(self, form: PairForm) -> tuple[Golden, ...]:
        if form.golden_id is None:
            return tuple(map(self._golden, form.goldens))
        try:
            return self._registered(form.golden_id)
        except DataError:
            # Another one may have taken its place since the record was read, and its pictures are gone.
            try:
                return self._registered(form.golden_id)
            except DataError as error:
                raise _no_such_golden(form.golden_id, "is damaged") from error

    def _registered(self, golden_id: str) -> tuple[Golden, ...]:
        return tuple(self.golden_of(golden_id, picture) for picture in self._record(golden_id).pictures)

    def _golden(self, picture: Picture) -> Golden:
        lights = self.inspector.description.layout.lights
        key: Key = (self.identity, *(sha256(picture[light]) for light in lights))
        if halves := self.shared.cache.get(key):
            return Golden(key, halves)
        return Golden(key, pixels=self._decode(picture, "golden"))

    def _record(self, golden_id: str) -> Registered:
        try:
            registered = self._registry().get(self.name, golden_id)
        except DataError as error:
            raise _no_such_golden(golden_id, "is damaged") from error
        if registered is None:
            raise _no_such_golden(golden_id)
        return registered

    def _registry(self) -> GoldenRegistry:
        if self.shared.registry is None:
            raise HttpError(404, "no-registry", "This service keeps no goldens: it was started without goldens_dir.")
        return self.shared.registry

    def _decode(self, picture: Picture, role: str) -> NDArray[np.uint8]:
        try:
            return decoded(self.inspector, picture, role, max_pixels=self.shared.picture_pixels)
        except HttpError as error:
            self.shared.metrics.picture_error(self.name, error.kind)
            raise

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


async def _in(threads: ThreadPoolExecutor, function: Callable[..., Result], *arguments: object) -> Result:
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)


def _no_such_golden(golden_id: str, why: str = "is not registered here") -> HttpError:
    return HttpError(404, "no-such-golden", f"The golden {golden_id!r} {why}. Register it, or send its picture.")
