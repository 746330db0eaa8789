"""Two engines on the same pairs: do they decide alike?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from changenet.description import BINARY_CLASSES, ModelDescription
from changenet.engines.interface import Engine, probabilities
from changenet.evaluation.metrics import decision_metrics, predict

FIGURES = ("auroc", "average_precision", "false_call_rate_at_full_recall", "recall", "false_call_rate")


@dataclass(frozen=True)
class Judged:
    """What one engine says about pairs.

    Args:
        scores: (N,), in score units.
        predictions: (N,) PASS or FAIL, or the class.
    """

    scores: NDArray[np.float32]
    predictions: NDArray[np.str_]

    def figures(self, description: ModelDescription, is_defect: NDArray[np.bool_] | None) -> dict[str, float | None]:
        """Return `FIGURES`, each None where it is not defined: no labels, one kind of pair only, scores that are no numbers."""
        if is_defect is None or not np.isfinite(self.scores).all():
            return dict.fromkeys(FIGURES)
        found = decision_metrics(self.scores, is_defect, description.threshold)
        return {name: found[name] for name in FIGURES}


@dataclass(frozen=True)
class Comparison:
    """What a network and its quantized form say about the same pairs.

    Args:
        reference: The network's.
        candidate: The quantized one's.
    """

    reference: Judged
    candidate: Judged

    @property
    def agreement(self) -> float:
        """Share (0-1) of pairs that both decide alike."""
        return float(np.mean(self.reference.predictions == self.candidate.predictions))

    @property
    def max_difference(self) -> float:
        """Largest |score difference|; infinite where a score is no number."""
        return _largest(self.candidate.scores - self.reference.scores)

    @property
    def max_error(self) -> float:
        """Largest |score difference| / max(1, |score|); likewise."""
        wanted = self.reference.scores
        return _largest((self.candidate.scores - wanted) / np.maximum(1, np.abs(wanted)))


def compare_engines(
    reference: Engine, candidate: Engine, pairs: Iterable[tuple[Any, Any]], description: ModelDescription
) -> Comparison:
    """Score the same pairs with both engines.

    Args:
        reference: The network of floats.
        candidate: What is compared with it.
        pairs: Tests uint8 (B, 3, H, W) and goldens ([B, N,] 3, H, W), batch by batch; at least one.
        description: Whose threshold and classes decide.
    """
    return Comparison(*judge_engines((reference, candidate), pairs, description))


def judge_engines(
    engines: Sequence[Engine], pairs: Iterable[tuple[Any, Any]], description: ModelDescription
) -> list[Judged]:
    """Return what each engine says about the same pairs, which are read once (arguments as `compare_engines`)."""
    outputs: list[list[Any]] = [[] for _ in engines]
    for test, golden in pairs:
        for engine, kept in zip(engines, outputs, strict=True):
            kept.append(engine.output(test, golden))
    return [_judge(engine, np.concatenate(kept), description) for engine, kept in zip(engines, outputs, strict=True)]


def _judge(engine: Engine, output: NDArray[np.float32], description: ModelDescription) -> Judged:
    classes, scores = description.classes, engine.scores(output)
    chances = probabilities(output) if classes != BINARY_CLASSES else None
    return Judged(scores, predict(scores, description.threshold, classes=classes, probabilities=chances))


def _largest(values: NDArray[np.floating]) -> float:
    return float(np.max(np.abs(values))) if np.isfinite(values).all() else float("inf")
