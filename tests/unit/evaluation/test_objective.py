from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changenet.evaluation.objective import FULL_RECALL, Objective

PASSES, DEFECTS = 40, 7
COUPLES = 2 * PASSES * DEFECTS
figures = st.tuples(st.integers(0, PASSES), st.integers(0, COUPLES), st.floats(0, 1e6).map(lambda loss: round(loss, 6)))


def value(false_calls: int, lost: int, loss: float) -> float:
    objective = Objective(name=FULL_RECALL, mode="min", passes=PASSES, defects=DEFECTS)
    rounded = {"val_far": 100 * false_calls / PASSES, "val_auroc": 1 - lost / COUPLES, "val_loss": loss}
    got = objective.value({name: float(f"{figure:.6g}") for name, figure in rounded.items()})  # as metrics.csv has them
    assert got is not None
    return got


@given(st.lists(figures, min_size=2, max_size=8))
def test_false_calls_come_first_then_auroc_then_loss(cases: list[tuple[int, int, float]]) -> None:
    for one, other in pairwise(sorted(cases)):
        if one[:2] != other[:2]:
            assert value(*one) < value(*other)
        else:
            assert value(*one) <= value(*other)


def test_the_loss_breaks_ties_and_never_more() -> None:
    assert value(3, 5, 0.1) < value(3, 5, 0.2) < value(3, 5, 1e30) < value(3, 6, 0.0)
    assert value(3, COUPLES, 1e30) < value(4, 0, 0.0)


@pytest.mark.parametrize("missing", [{"val_far": None}, {"val_auroc": None}, {"val_loss": float("nan")}])
def test_what_was_not_measured_is_no_objective(missing: dict[str, float | None]) -> None:
    objective = Objective(name=FULL_RECALL, mode="min", passes=2, defects=2)
    assert objective.value({"val_far": 0.0, "val_auroc": 1.0, "val_loss": 0.1, **missing}) is None


def test_a_metric_is_its_own_objective_and_the_larger_may_be_better() -> None:
    objective = Objective(name="val_auroc", mode="max", passes=2, defects=2)
    assert objective.value({"val_auroc": 0.75}) == 0.75
    assert objective.is_better(0.8, than=0.75)
    assert not objective.is_better(0.75, than=0.75)
    assert objective.is_better(0.0, than=None)
