"""How sure a measured share is: the exact (Clopper-Pearson) interval of a binomial proportion."""

from __future__ import annotations

from scipy.stats import binomtest

CONFIDENCE = 0.95


def clopper_pearson(hits: int, trials: int, *, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Return the two-sided Clopper-Pearson interval of `hits / trials`, or None without trials.

    >>> [round(bound, 4) for bound in clopper_pearson(37, 37)]
    [0.9051, 1.0]
    """
    if not trials:
        return None
    interval = binomtest(hits, trials).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)
