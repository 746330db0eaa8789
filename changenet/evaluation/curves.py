"""Every operating point of a set of scores, exactly: no binning, ties kept together, counts as integers.

Own code rather than torchmetrics, whose binary curves divide in float32 and squash scores outside 0-1 (euclidean
distances) through a float32 sigmoid, which makes large distances equal. The tests compare the two where both are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OperatingPoints:
    """What each possible cut would do, from the strictest (nothing fails) to the loosest (everything fails).

    Args:
        cuts: (K,) descending; a pair fails when its score is at least the cut. The first is infinity.
        caught: (K,) defects that fail at each cut.
        false_calls: (K,) PASS pairs that fail at each cut.
    """

    cuts: Floats
    caught: NDArray[np.int64]
    false_calls: NDArray[np.int64]

    @property
    def defects(self) -> int:
        """Number of defects in the set."""
        return int(self.caught[-1])

    @property
    def passes(self) -> int:
        """Number of PASS pairs in the set."""
        return int(self.false_calls[-1])

    def recall(self) -> Floats:
        """Return the share of defects that fail at each cut, (K,)."""
        return self.caught / self.defects

    def false_call_rate(self) -> Floats:
        """Return the share of PASS pairs that fail at each cut, (K,)."""
        return self.false_calls / self.passes

    def precision(self) -> Floats:
        """Return the share of defects among what fails at each cut, (K,); 1 where nothing fails."""
        failing = self.caught + self.false_calls
        return np.where(failing > 0, self.caught / np.maximum(failing, 1), 1.0)


def operating_points(scores: Any, is_defect: Any) -> OperatingPoints:
    """Return all operating points of the scores.

    Args:
        scores: (N,) finite numbers, high for a defect.
        is_defect: (N,) truth.

    Raises:
        ValueError: The lengths differ, or a score is NaN or infinite.
    """
    scores, is_defect = checked(scores, is_defect)
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    last_of_tie = np.flatnonzero(np.append(np.diff(sorted_scores) != 0, np.ones(min(len(scores), 1), dtype=bool)))
    caught = np.cumsum(is_defect[order], dtype=np.int64)[last_of_tie]
    return OperatingPoints(
        cuts=np.append(np.inf, sorted_scores[last_of_tie]),
        caught=np.append(np.int64(0), caught),
        false_calls=np.append(np.int64(0), last_of_tie + 1 - caught),
    )


def auroc(points: OperatingPoints) -> float | None:
    """Return the area under the ROC curve: the share of (defect, PASS) couples in the right order, ties counting half.

    >>> auroc(operating_points([0.1, 0.4, 0.35, 0.8], [False, False, True, True]))
    0.75
    """
    couples = points.defects * points.passes
    if not couples:
        return None
    twice_area = np.sum(np.diff(points.false_calls) * (points.caught[1:] + points.caught[:-1]), dtype=np.int64)
    return float(twice_area / (2 * couples))


def average_precision(points: OperatingPoints) -> float | None:
    """Return the mean of the precision over the recall steps (no interpolation); None without defects."""
    if not points.defects:
        return None
    return float(np.sum(np.diff(points.caught) * points.precision()[1:]) / points.defects)


def checked(scores: Any, is_defect: Any) -> tuple[Floats, NDArray[np.bool_]]:
    """Return both as flat arrays of one length.

    Raises:
        ValueError: The lengths differ, or a score is NaN or infinite.
    """
    score_array = np.asarray(scores, dtype=np.float64).reshape(-1)
    defect_array = np.asarray(is_defect, dtype=bool).reshape(-1)
    if len(score_array) != len(defect_array):
        raise ValueError(f"{len(score_array)} scores for {len(defect_array)} labels")
    if not np.isfinite(score_array).all():
        raise ValueError(f"{int((~np.isfinite(score_array)).sum())} scores are NaN or infinite")
    return score_array, defect_array
