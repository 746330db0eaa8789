"""The gates of every export: does an engine give the scores of another one, and decide alike on real pairs?"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from changenet.description import ModelDescription
from changenet.engines.interface import Array, Engine, by_pair
from changenet.engines.tolerance import tolerance
from changenet.errors import DataError, EngineError, SpecError
from changenet.evaluation.comparison import compare_engines
from changenet.manifest import Parity

logger = logging.getLogger(__name__)

BATCHES = (1, 2, 7)
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
    description: ModelDescription,
    *,
    fix: str,
    truth: Engine | None = None,
    pair_batch: int = -1,
    seed: int = 20,
) -> Parity:
    """Compare an engine with another one on fresh pairs, along both roads: split, and the pair graph.

    An engine beside itself is held to one thing: its pair graph must give the scores of the split road.

    Args:
        engine: What is checked.
        reference: What it must agree with, tensor by tensor.
        description: Of the network.
        fix: What to do where they do not agree.
        truth: Whose scores count, where the reference is that network with merged steps; None = the reference.
        pair_batch: The only batch that the pair graph takes; -1 = any.
        seed: Of the pairs.

    Raises:
        EngineError: The scores differ by more than the `tolerance` of the engine's precision; the message names the tensor that
            drifts first.
    """
    worst, truth, allowed = 0.0, truth or reference, tolerance(engine.precision)
    shape, num_golden = description.layout.shape, description.num_golden
    mean, std = description.network["mean"], description.network["std"]
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
            if not steps[-1][1] <= allowed:  # also when it is not a number
                name, error = next(step for step in steps if not step[1] <= allowed)
                raise EngineError(
                    f"{engine.name} ({engine.precision}) does not agree with {reference.name} ({reference.precision}) at "
                    f"batch {batch}: {name} drifts first, by {error:.1e} (score by {steps[-1][1]:.1e}, allowed {allowed:.0e})",
                    fix=f"Nothing was written. {fix}",
                )
    return Parity(max_error=worst)


def with_agreement(
    parity: Parity,
    engine: Engine,
    reference: Engine,
    description: ModelDescription,
    validation: Iterable[tuple[Any, Any]] | None,
) -> Parity:
    """Return a parity with the share of real pairs that two engines decide alike, or with the reason why there is none.

    Args:
        parity: Of the engine.
        engine: What is checked.
        reference: Whose decisions count.
        description: Whose threshold and classes decide.
        validation: Pairs, as `changenet.evaluation.comparison.compare_engines` takes them; where they cannot be read, which is
            a DataError or a SpecError, there is a warning. None: there are none, which needs no reason.
    """
    if validation is None:
        return parity
    try:
        return replace(parity, agreement=compare_engines(reference, engine, validation, description).agreement)
    except (DataError, SpecError) as error:
        logger.warning("No decisions on real pairs were compared: %s", error)
        return replace(parity, reason=str(error))


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
