"""Whether the scores of today are those of the validation set: the population stability index (PSI).

Below 0.1 the two are alike, above 0.25 something has changed: the camera, the light, the parts. At most ten bins that hold
about equal shares of the validation scores are compared, fewer where the validation set is small. Production sees far fewer
defects than a validation set, which alone would look like a change; so PASS and defect scores of the validation set are mixed
in the share in which the scores of the window fail. How that share itself moves, the counts of decisions tell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

BINS = 10
SCORES_A_BIN = 20  # PASS of the validation set, at least: chance alone adds about 1 / SCORES_A_BIN to the index
WINDOW = 2000  # scores
LEAST = 200  # below, chance alone gives an index over 0.05
EVERY = 50

Counts = NDArray[np.float64]


def population_stability(expected: Sequence[float] | Counts, observed: Sequence[float] | Counts) -> float:
    """Return the index, 0 or more, of observed counts against expected ones of the same bins.

    >>> population_stability([50, 30, 20], [50, 30, 20])
    0.0
    """
    before, after = _shares(np.asarray(expected, float)), _shares(np.asarray(observed, float))
    return _index(before, after)


def _shares(counts: Counts) -> Counts:
    """Half a count more in every bin keeps an empty one from being infinitely surprising."""
    filled = counts + 0.5
    return np.asarray(filled / filled.sum(), float)


def _index(before: Counts, after: Counts) -> float:
    return float(np.sum((after - before) * np.log(after / before)))


class ScoreWindow:
    """The last scores of a model beside those of its validation.

    Args:
        histogram: The bundle's `validation_scores`: edges, PASS and defect.
        threshold: Scores above it fail.
    """

    def __init__(self, histogram: Mapping[str, Sequence[float]], threshold: float) -> None:
        good, bad = _kinds(histogram)
        self._threshold = threshold
        starts = _equal_parts(good, bad)
        self._borders = borders(histogram)
        kinds = [np.add.reduceat(counts, starts) for counts in (good, bad) if counts.sum()]
        self._good, self._bad = (
            _shares(kinds[0]),
            _shares(kinds[-1]),
        )  # where only one kind was seen, it stands for both
        self._recent: deque[tuple[int, bool]] = deque()
        self._counts = np.zeros(len(starts))
        self._fails = 0
        self._since = 0

    def add(self, score: float) -> float | None:
        """Take a score; return the index every now and then, None in between and before there are enough."""
        entry = (int(np.searchsorted(self._borders, score, side="right")), score > self._threshold)
        self._change(entry, 1)
        self._recent.append(entry)
        if len(self._recent) > WINDOW:
            self._change(self._recent.popleft(), -1)
        self._since += 1
        if len(self._recent) < LEAST or self._since < EVERY:
            return None
        self._since = 0
        share = self._fails / len(self._recent)
        return _index((1 - share) * self._good + share * self._bad, _shares(self._counts))

    def _change(self, entry: tuple[int, bool], by: int) -> None:
        self._counts[entry[0]] += by
        self._fails += by * entry[1]


def has_scores(histogram: Mapping[str, Sequence[float]]) -> bool:
    """Say whether a bundle holds validation scores to compare with."""
    return bool(histogram.get("edges")) and sum(histogram["PASS"]) + sum(histogram["defect"]) > 0


def borders(histogram: Mapping[str, Sequence[float]]) -> Counts:
    """Return the scores, at most `BINS` - 1, that part validation scores into equal shares; outside, the end bins go on."""
    starts = _equal_parts(*_kinds(histogram))
    return np.asarray(histogram["edges"], float)[starts[1:]]


def _kinds(histogram: Mapping[str, Sequence[float]]) -> tuple[Counts, Counts]:
    return np.asarray(histogram["PASS"], float), np.asarray(histogram["defect"], float)


def _equal_parts(*kinds: Counts) -> list[int]:
    """Return where each of at most `BINS` groups of neighbouring bins begins, so that all hold about equally much.

    PASS and defects weigh the same, however many of either a validation set has: both should be seen to move.
    """
    there = [counts for counts in kinds if counts.sum()]
    parts = min(BINS, max(2, int(len(there) * there[0].sum() // SCORES_A_BIN)))
    reached = np.cumsum(sum(counts / counts.sum() for counts in there)) / len(there)
    wanted = np.arange(1, parts) / parts
    ends = np.searchsorted(reached, wanted - 1e-9) + 1
    return [0, *(int(end) for end in np.unique(ends) if end < len(reached))]
