"""The gate of every export: does an engine give the scores of the PyTorch network?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from changenet.engines.interface import Array, Engine, by_pair
from changenet.errors import EngineError
from changenet.manifest import Parity

BATCHES = (1, 2, 7)
TOLERANCE = 1e-4  # of |score difference| / max(1, |score|), in fp32
Pictures = NDArray[np.uint8]


def make_pairs(count: int, shape: tuple[int, int, int], *, seed: int, num_golden: int = 1) -> tuple[Pictures, Pictures]:
    """Return distinct tests and goldens: noise, and smooth pictures with a patch in the test, by turns.

    Returns:
        Tests uint8 (count, 3, H, W); goldens likewise, or (count, num_golden, 3, H, W) for several.
    """
    generator = np.random.default_rng(seed)
    test = generator.integers(0, 256, (count, *shape), dtype=np.uint8)
    golden = generator.integers(0, 256, (count, num_golden, *shape), dtype=np.uint8)
    _, height, width = shape
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    for index in range(1, count, 2):
        waves = generator.uniform(1, 9, (3, 2))[:, :, None, None]
        smooth = 127.5 + 120 * np.sin(2 * np.pi * (waves[:, 0] * down + waves[:, 1] * across))
        test[index] = smooth.astype(np.uint8)
        golden[index] = [np.roll(test[index], 2 * number, axis=-1) for number in range(num_golden)]
        top, left = generator.integers(0, height // 2 + 1), generator.integers(0, width // 2 + 1)
        patch = test[index, :, top : top + max(1, height // 4), left : left + max(1, width // 4)]
        patch[...] = generator.integers(0, 256, (3, 1, 1))
    return test, golden[:, 0] if num_golden == 1 else golden


def check_parity(
    engine: Engine,
    reference: Engine,
    *,
    shape: tuple[int, int, int],
    truth: Engine | None = None,
    mean: Sequence[float],
    std: Sequence[float],
    num_golden: int = 1,
    pair_batch: int = -1,
    seed: int = 20,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compare an engine with the PyTorch network on fresh pairs, along both roads: split, and the pair graph.

    Args:
        engine: What is checked.
        reference: What it must agree with, tensor by tensor.
        shape: (3, H, W) of a picture.
        truth: Whose scores count, where the reference is that network with merged steps; None = the reference.
        mean: Of pixels in 0-1, for the pair graph's normalised input.
        std: Likewise.
        num_golden: Goldens a test is compared with.
        pair_batch: The only batch that the pair graph takes; -1 = any.
        seed: Of the pairs.
        tolerance: Of |score difference| / max(1, |score|).

    Raises:
        EngineError: The scores differ by more than `tolerance`; the message names the tensor that drifts first.
    """
    worst, truth = 0.0, truth or reference
    for batch in sorted({*BATCHES, *([pair_batch] if pair_batch > 0 else [])}):
        test, golden = make_pairs(batch, shape, seed=seed + batch, num_golden=num_golden)
        scores = truth.score(test, golden)
        roads = [_split_road(engine, reference, test, golden, scores)]
        if pair_batch in (-1, batch):
            floats = _normalise(test, mean, std), _normalise(golden, mean, std)
            roads.append(_pair_road(engine, reference, *floats, scores))
        for road in roads:
            steps = list(road)
            worst = max(worst, steps[-1][1])
            if not steps[-1][1] <= tolerance:  # also when it is not a number
                name, error = next(step for step in steps if not step[1] <= tolerance)
                raise EngineError(
                    f"{engine.name} does not agree with PyTorch at batch {batch}: {name} drifts first, by {error:.1e} "
                    f"(score by {steps[-1][1]:.1e}, allowed {tolerance:.0e})",
                    fix="Nothing was written. Try another export.opset_version.",
                )
    return Parity(max_error=worst)


def _split_road(
    engine: Engine, reference: Engine, test: Pictures, golden: Pictures, scores: Array
) -> Iterator[tuple[str, float]]:
    """Yield each tensor's name and its error, from the pictures to the score."""
    features, wanted_features = engine.encode(test), reference.encode(test)
    goldens = golden.reshape(-1, *golden.shape[-3:])
    halves = engine.prepare_golden(engine.encode(goldens))
    wanted_halves = reference.prepare_golden(reference.encode(goldens))
    named = (("encoder.onnx features", features, wanted_features), ("golden.onnx golden", halves, wanted_halves))
    for name, arrays, wanted in named:
        for level, (array, target) in enumerate(zip(arrays, wanted, strict=True)):
            yield f"{name}_{level}", _error(array, target)
    if golden.ndim == 5:
        halves, wanted_halves = by_pair(halves, len(test)), by_pair(wanted_halves, len(test))
    output, wanted_output = engine.compare(features, halves), reference.compare(wanted_features, wanted_halves)
    yield "comparator.onnx output", _error(output, wanted_output)
    yield "the score", _error(engine.scores(output), scores)


def _pair_road(
    engine: Engine, reference: Engine, test: Array, golden: Array, scores: Array
) -> Iterator[tuple[str, float]]:
    output, wanted = engine.pair(test, golden), reference.pair(test, golden)
    yield "pair.onnx output", _error(output, wanted)
    yield "the score of pair.onnx", _error(engine.scores(output), scores)


def _error(found: Array, wanted: Array) -> float:
    """Return the largest |difference| / max(1, |wanted|); infinite where the shapes differ."""
    if found.shape != wanted.shape:
        return float("inf")
    return float(np.max(np.abs(found - wanted) / np.maximum(1, np.abs(wanted)), initial=0.0))


def _normalise(pictures: Pictures, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Return what a user of the pair graph computes: (value / 255 - mean) / std."""
    centre, spread = (np.asarray(values, np.float64).reshape(3, 1, 1) for values in (mean, std))
    return ((pictures / 255 - centre) / spread).astype(np.float32)
