"""What every engine can do: batches of NumPy arrays in, NumPy arrays out, split where a golden's work can be kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = tuple[Array, ...]


class Engine(ABC):
    """A loaded network.

    Args:
        name: The runtime.
        device: Where it runs, in the runtime's own words.
        precision: Of the weights: `fp32`, `bf16` …
        multiclass: Whether the outputs are real classes; otherwise only index 1 means defect.

    Attributes:
        memory_bytes: What its weights take on the device; batches in work come on top. 0: the runtime does not say.
        keeps_goldens: Whether it runs `encode`, `prepare_golden` and `compare`; otherwise whole pairs only.
    """

    memory_bytes: int = 0
    keeps_goldens: bool = True

    def __init__(self, *, name: str, device: str, precision: str, multiclass: bool) -> None:
        self.name = name
        self.device = device
        self.precision = precision
        self.multiclass = multiclass

    @abstractmethod
    def encode(self, pictures: NDArray[np.uint8]) -> Arrays:
        """Return the features of pictures uint8 (B, 3, H, W): a level an array, or the one embedding."""

    @abstractmethod
    def prepare_golden(self, features: Sequence[Array]) -> Arrays:
        """Return the goldens' share of the comparison from their features; worth keeping."""

    @abstractmethod
    def compare(self, test_features: Sequence[Array], golden_halves: Sequence[Array]) -> NDArray[np.float32]:
        """Return logits (B, C) or distances (B,); several goldens are the second dimension of their halves."""

    @abstractmethod
    def pair(self, test: NDArray[np.float32], golden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output for normalised pictures, float32 (B, 3, H, W) and (B, [N,] 3, H, W): TAO's graph."""

    def output(self, test: NDArray[np.uint8], golden: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits (B, C) or distances (B,) for pictures uint8 (B, 3, H, W) and goldens (B, [N,] 3, H, W).

        One encoder call sees all of them.
        """
        pairs = len(test)
        features = self.encode(np.concatenate([test, golden.reshape(-1, *golden.shape[-3:])]))
        halves = self.prepare_golden([level[pairs:] for level in features])
        if golden.ndim == 5:
            halves = by_pair(halves, pairs)
        return self.compare([level[:pairs] for level in features], halves)

    def warm_up(self, shape: tuple[int, int, int], *, batch: int = 1, num_golden: int = 1) -> None:
        """Score a batch of black pairs, so that the first real one does not wait for what is prepared on first use.

        Args:
            shape: (3, H, W) of a picture.
            batch: Pairs; compilers and GPUs prepare for each size of batch.
            num_golden: Goldens a test is compared with.
        """
        goldens = (num_golden,) if num_golden > 1 else ()
        test, golden = np.zeros((batch, *shape), np.uint8), np.zeros((batch, *goldens, *shape), np.uint8)
        self.output(test, golden)
        if self.keeps_goldens:
            Engine.output(self, test, golden)  # step by step, as for a golden that is kept

    def scores(self, output: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how defective each pair looks, (B,): the distance (>= 0) or a probability (0-1)."""
        return scores(output, multiclass=self.multiclass)

    def score(self, test: NDArray[np.uint8], golden: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the scores (B,) of pairs (shapes as `output`)."""
        return self.scores(self.output(test, golden))


def by_pair(halves: Sequence[Array], pairs: int) -> Arrays:
    """Return the halves of all goldens (pairs * N, …), pair by pair, as `Engine.compare` takes them: (pairs, N, …)."""
    return tuple(half.reshape(pairs, -1, *half.shape[1:]) for half in halves)


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the softmax of logits (B, C).

    >>> probabilities(np.zeros((1, 2), np.float32))
    array([[0.5, 0.5]], dtype=float32)
    """
    powers = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    chances: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return chances.astype(np.float32)


def scores(output: NDArray[np.float32], *, multiclass: bool) -> NDArray[np.float32]:
    """Return the scores (B,) of an output: distances (B,) as they are, logits (B, C) as 1 - P(PASS).

    Args:
        output: Distances (B,) or logits (B, C).
        multiclass: False takes P(index 1), as TAO does whatever C is.
    """
    if output.ndim == 1:
        return output
    chances = probabilities(output)
    wanted: NDArray[np.float32] = chances[:, 1:].sum(axis=1) if multiclass else chances[:, 1]
    return wanted
