"""What a sweep calls better: one number a validation, which orders trials."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FULL_RECALL = "false_call_rate_at_full_recall"
_LOSS_SHARE = 0.999  # of a step of AUROC: a huge loss must not round up to the next one


@dataclass(frozen=True)
class Objective:
    """Reads the number to compare from the figures of an epoch (`metrics.csv`).

    Of `false_call_rate_at_full_recall` the number counts the false calls at full recall; its fraction breaks ties by AUROC,
    and those by loss, exactly: AUROC goes in steps of 0.5 / (passes * defects) and the loss, squashed to less than 1, never
    fills a step. (With 10^9 couples of a defect and a PASS a 64-bit number has no digits left for the loss.)

    Args:
        name: `false_call_rate_at_full_recall`, or a metric of `metrics.csv`.
        mode: Which way is better.
        passes: PASS pairs of the validation set.
        defects: Its defects.

    >>> ties = Objective(name=FULL_RECALL, mode="min", passes=10, defects=5)
    >>> round(ties.value({"val_far": 20.0, "val_auroc": 0.98, "val_loss": 1.0}), 6)
    2.024748
    """

    name: str
    mode: Literal["min", "max"]
    passes: int
    defects: int

    def value(self, figures: Mapping[str, float | None]) -> float | None:
        """Return the number of an epoch; None where it was not measured or is undefined."""
        if self.name != FULL_RECALL:
            return _finite(figures.get(self.name))
        rate, area, loss = (_finite(figures.get(name)) for name in ("val_far", "val_auroc", "val_loss"))
        if rate is None or area is None or loss is None:
            return None
        couples = 2 * self.passes * self.defects
        false_calls, lost = round(rate / 100 * self.passes), round((1 - area) * couples)
        return false_calls + (lost + _LOSS_SHARE * loss / (1 + loss)) / (couples + 1)

    def is_better(self, value: float, than: float | None) -> bool:
        """Say whether a number is better than another, or the first."""
        return than is None or (value < than if self.mode == "min" else value > than)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
