"""What the engine does with the pairs of a batch: every picture that is new goes through the encoder in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from changenet.engines import Arrays, Engine
from changenet.engines.interface import Array, by_pair
from serve.golden_cache import GoldenCache, Key


@dataclass(frozen=True)
class Golden:
    """A golden on its way to the engine: its halves, or its pixels where it was not encoded before.

    Args:
        key: Names its content in the cache.
        halves: Its share of the comparison, without a batch dimension.
        pixels: uint8 (3, H, W).
    """

    key: Key
    halves: Arrays | None = None
    pixels: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Pair:
    """A test picture, uint8 (3, H, W), and one or more goldens."""

    test: NDArray[np.uint8]
    goldens: tuple[Golden, ...]

    @property
    def pictures(self) -> int:
        """How many pictures the encoder has to see for it."""
        return 1 + sum(golden.halves is None for golden in self.goldens)


class Comparer:
    """Compares the pairs of one batch after the other, in one thread.

    Args:
        engine: Runs the network.
        num_golden: Goldens that the network compares a test with; a pair's are used in turn.
    """

    def __init__(self, engine: Engine, *, num_golden: int) -> None:
        self._engine = engine
        self._num_golden = num_golden
        # Halves of a batch are megabytes; to get as much from the system each time takes longer than to fill it.
        self._buffers: list[Array] = []

    def __call__(self, pairs: Sequence[Pair], *, cache: GoldenCache) -> NDArray[np.float32]:
        """Return the engine's output, logits (B, C) or distances (B,), and keep the goldens that were new in `cache`."""
        goldens = [golden for pair in pairs for golden in pair.goldens]
        # A batch before this one may have encoded what was new when the request came.
        found = {golden.key: golden.halves or cache.get(golden.key) for golden in goldens}
        known = {key: halves for key, halves in found.items() if halves is not None}
        new = {golden.key: golden.pixels for golden in goldens if golden.key not in known and golden.pixels is not None}
        features = self._engine.encode(np.stack([*(pair.test for pair in pairs), *new.values()]))
        encoded = _encoded(self._engine, [level[len(pairs) :] for level in features], list(new))
        for key, halves in encoded.items():
            cache.put(key, halves)
        known |= encoded
        wanted = [known[golden.key] for pair in pairs for golden in islice(cycle(pair.goldens), self._num_golden)]
        batch = self._gathered(wanted)
        if self._num_golden > 1:
            batch = by_pair(batch, len(pairs))
        return self._engine.compare([level[: len(pairs)] for level in features], batch)

    def _gathered(self, wanted: Sequence[Arrays]) -> Arrays:
        """Return the halves of all goldens level by level, valid until the next call."""
        if not self._buffers or len(self._buffers[0]) < len(wanted):
            self._buffers = [np.empty((len(wanted), *half.shape), half.dtype) for half in wanted[0]]
        return tuple(
            np.stack(level, out=buffer[: len(wanted)])
            for level, buffer in zip(zip(*wanted, strict=True), self._buffers, strict=True)
        )


def encode_goldens(engine: Engine, pictures: dict[Key, NDArray[np.uint8]]) -> dict[Key, Arrays]:
    """Return the halves of goldens, uint8 (3, H, W) each, before anybody asks for them."""
    return _encoded(engine, engine.encode(np.stack(list(pictures.values()))), list(pictures)) if pictures else {}


def _encoded(engine: Engine, features: Sequence[NDArray[np.float32]], keys: Sequence[Key]) -> dict[Key, Arrays]:
    if not keys:
        return {}
    halves = engine.prepare_golden(features)
    if len(keys) == 1:
        return {keys[0]: tuple(level[0] for level in halves)}
    # Copies: a view would keep the whole batch alive.
    return {key: tuple(level[index].copy() for level in halves) for index, key in enumerate(keys)}
