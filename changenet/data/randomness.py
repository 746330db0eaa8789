"""Where every random number comes from: one generator for each (seed, epoch, rank, purpose) and nothing else.

Two purposes never share a stream, and a stream does not depend on who else draws, in which order or process.
"""

from __future__ import annotations

import hashlib

import numpy as np

_WORD = 2**64


def generator(purpose: str, *, seed: int, epoch: int = 0, rank: int = 0, row: int = 0) -> np.random.Generator:
    """Return the generator of this (seed, epoch, rank, row) and purpose: the same on every machine.

    >>> int(generator("draw", seed=1, epoch=3).integers(100)) == int(generator("draw", seed=1, epoch=3).integers(100))
    True
    """
    return np.random.Generator(np.random.PCG64(_sequence(purpose, seed, epoch, rank, row)))


def derived_seed(purpose: str, *, seed: int, epoch: int = 0, rank: int = 0, batch: int = 0) -> int:
    """Return a seed in 0 to 2**63 - 1 for libraries that take only a number."""
    return int(_sequence(purpose, seed, epoch, rank, batch).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _sequence(purpose: str, *numbers: int) -> np.random.SeedSequence:
    # Python's own hash of text differs from process to process.
    word = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "big")
    return np.random.SeedSequence([word, *(number % _WORD for number in numbers)])
