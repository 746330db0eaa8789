"""Where to cut: a threshold fitted on validation scores for the recall that the user asks for.

The rule everywhere is TAO's: FAIL when the score is strictly greater than the threshold.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

import numpy as np

from changenet.description import Threshold
from changenet.evaluation.curves import checked
from changenet.evaluation.intervals import clopper_pearson

logger = logging.getLogger(__name__)


def fit_threshold(
    scores: Any,
    is_defect: Any,
    *,
    policy: Literal["margin", "recall"],
    target: float = 1.0,
    margin: float = 0.5,
) -> Threshold:
    """Return the threshold that the policy gives on these validation scores.

    `margin`: `margin` itself. `recall`: the midpoint between the lowest defect score that must be caught and the
    highest PASS score below it (0, the lowest possible score, where no PASS lies below), so that at least `target` of
    the defects score strictly higher, in float32 arithmetic too. Without a defect or without a PASS there is nothing to
    fit: `margin` with a logged warning.

    Args:
        scores: (N,) validation scores, finite.
        is_defect: (N,) truth.
        policy: `margin` or `recall`.
        target: Share of defects to catch, in (0, 1]; policy `recall`.
        margin: The threshold of policy `margin`.

    Raises:
        ValueError: The target is outside (0, 1], the lengths differ, or a score is not finite.

    >>> fit_threshold([0.1, 0.2, 0.6, 0.9], [False, False, True, True], policy="recall").value
    0.4
    """
    if not 0 < target <= 1:
        raise ValueError(f"target {target} is outside (0, 1]")
    scores, is_defect = checked(scores, is_defect)
    defect_scores, pass_scores = np.sort(scores[is_defect])[::-1], scores[~is_defect]
    if policy == "recall" and (not len(defect_scores) or not len(pass_scores)):
        logger.warning(
            "The validation set has no %s: the threshold cannot be fitted to a recall of %g and stays at %g.",
            "PASS pair" if len(defect_scores) else "defect",
            target,
            margin,
        )
        policy = "margin"
    value = (
        margin if policy == "margin" else _below(defect_scores[_needed(len(defect_scores), target) - 1], pass_scores)
    )
    return Threshold(
        value=value,
        policy=policy,
        target=target if policy == "recall" else None,
        interval=clopper_pearson(int((defect_scores > value).sum()), len(defect_scores)),
    )


def _needed(defects: int, target: float) -> int:
    """Return the least number of caught defects whose share reaches the target."""
    needed = max(1, math.floor(target * defects))
    return needed if needed / defects >= target else needed + 1


def _below(lowest_caught: float, pass_scores: np.ndarray[Any, Any]) -> float:
    """Return the midpoint between the lowest score to catch and the highest PASS score under it."""
    under = pass_scores[pass_scores < lowest_caught]
    middle = float((under.max() if len(under) else 0.0) / 2 + lowest_caught / 2)
    if np.float32(middle) < np.float32(lowest_caught):
        return middle
    # Neighbouring numbers, or a defect scored 0: the midpoint would round to the score itself.
    if lowest_caught == 0:
        return -float(np.finfo(np.float32).tiny)  # the next number down is subnormal, which some devices flush to 0
    return float(np.nextafter(np.float32(lowest_caught), np.float32(-np.inf)))
