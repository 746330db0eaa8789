from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changenet.evaluation.curves import auroc, average_precision, operating_points

# Few distinct values, so that ties are common.
pairs = st.lists(st.tuples(st.integers(0, 6).map(lambda tenth: tenth / 7), st.booleans()), min_size=1, max_size=40)


@given(pairs)
@settings(max_examples=100, deadline=None)
def test_auroc_is_the_share_of_couples_in_the_right_order(rows: list[tuple[float, bool]]) -> None:
    defects = [score for score, is_defect in rows if is_defect]
    passes = [score for score, is_defect in rows if not is_defect]
    couples = [(d > p) + 0.5 * (d == p) for d in defects for p in passes]
    expected = sum(couples) / len(couples) if couples else None
    assert auroc(operating_points(*zip(*rows, strict=True))) == (
        pytest.approx(expected) if expected is not None else None
    )


@given(pairs)
@settings(max_examples=50, deadline=None)
def test_each_operating_point_counts_what_reaches_its_cut(rows: list[tuple[float, bool]]) -> None:
    points = operating_points(*zip(*rows, strict=True))
    for cut, caught, false_calls in zip(points.cuts, points.caught, points.false_calls, strict=True):
        assert caught == sum(is_defect for score, is_defect in rows if score >= cut)
        assert false_calls == sum(not is_defect for score, is_defect in rows if score >= cut)
    assert (np.diff(points.cuts) < 0).all()


@given(pairs)
@settings(max_examples=50, deadline=None)
def test_average_precision_is_the_precision_over_the_recall_steps(rows: list[tuple[float, bool]]) -> None:
    defects = sum(is_defect for _, is_defect in rows)
    expected, before = 0.0, 0
    for cut in sorted({score for score, _ in rows}, reverse=True):
        failing = [is_defect for score, is_defect in rows if score >= cut]
        expected += sum(failing) / len(failing) * (sum(failing) - before)
        before = sum(failing)
    found = average_precision(operating_points(*zip(*rows, strict=True)))
    assert found == (pytest.approx(expected / defects) if defects else None)


@pytest.mark.slow  # importing torchmetrics takes most of it
def test_areas_agree_with_torchmetrics_on_probabilities() -> None:
    from changenet.torchvision_compat import torchvision

    assert torchvision  # repaired first: torchmetrics imports it
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    random = np.random.default_rng(5)
    is_defect = random.random(400) < 0.2
    scores = np.clip(np.round(random.normal(0.3 + 0.3 * is_defect, 0.2), 2), 0, 1)
    points = operating_points(scores, is_defect)
    tensors = torch.tensor(scores), torch.tensor(is_defect).long()
    assert auroc(points) == pytest.approx(float(binary_auroc(*tensors)), abs=1e-6)
    assert average_precision(points) == pytest.approx(float(binary_average_precision(*tensors)), abs=1e-6)


def test_large_distances_stay_apart() -> None:
    assert auroc(operating_points([40.0, 41.0, 42.0, 43.0], [False, True, False, True])) == 0.75


@pytest.mark.parametrize("is_defect", [[], [True, True], [False, False]])
def test_areas_are_undefined_where_a_class_is_missing(is_defect: list[bool]) -> None:
    points = operating_points(np.linspace(0, 1, len(is_defect)), is_defect)
    assert auroc(points) is None
    assert average_precision(points) == (1.0 if any(is_defect) else None)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="1 scores are NaN or infinite"):
        operating_points([0.1, bad], [False, True])
