from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changenet.evaluation.thresholds import fit_threshold

float32_score = st.floats(0, 3, width=32)
coarse_score = st.integers(0, 5).map(float)
rows = st.one_of(
    st.lists(st.tuples(float32_score, st.booleans()), min_size=2, max_size=40),
    st.lists(st.tuples(coarse_score, st.booleans()), min_size=2, max_size=40),
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=40),
).filter(lambda rows: 0 < sum(is_defect for _, is_defect in rows) < len(rows))
targets = st.one_of(st.just(1.0), st.floats(0.01, 1.0), st.integers(1, 100).map(lambda percent: percent / 100))


@given(rows, targets)
@settings(max_examples=300, deadline=None)
def test_recall_reaches_the_target_in_both_precisions(rows: list[tuple[float, bool]], target: float) -> None:
    scores, is_defect = (np.array(column) for column in zip(*rows, strict=True))
    threshold = fit_threshold(scores, is_defect, policy="recall", target=target)
    assert (scores[is_defect] > threshold.value).mean() >= target
    assert (scores[is_defect].astype(np.float32) > np.float32(threshold.value)).mean() >= target
    assert threshold.policy == "recall"
    assert threshold.target == target


@given(rows)
@settings(max_examples=200, deadline=None)
def test_full_recall_costs_no_more_false_calls_than_it_must(rows: list[tuple[float, bool]]) -> None:
    scores, is_defect = (np.array(column) for column in zip(*rows, strict=True))
    threshold = fit_threshold(scores.astype(np.float32), is_defect, policy="recall")
    passes, lowest = scores[~is_defect].astype(np.float32), scores[is_defect].astype(np.float32).min()
    assert (passes > threshold.value).sum() == (passes >= lowest).sum()


def test_it_is_the_midpoint_between_lowest_defect_and_highest_pass_below() -> None:
    assert fit_threshold([0.1, 0.25, 0.75, 0.5], [0, 0, 0, 1], policy="recall").value == 0.375


def test_a_lower_target_lets_the_lowest_defects_go() -> None:
    scores = [0.05, 0.5, 0.1, 0.6, 0.7, 0.8, 0.9]
    is_defect = [False, False, True, True, True, True, True]
    threshold = fit_threshold(scores, is_defect, policy="recall", target=0.8)
    assert threshold.value == pytest.approx(0.55)
    assert threshold.interval == pytest.approx((0.2836, 0.9949), abs=1e-4)


@pytest.mark.parametrize(("target", "caught"), [(0.07, 7), (0.07001, 8), (0.29, 29), (1.0, 100)])
def test_the_target_is_met_exactly_and_no_more(target: float, caught: int) -> None:
    scores = np.append(np.arange(1, 101), np.arange(1, 101) - 0.5)
    threshold = fit_threshold(scores, np.arange(200) < 100, policy="recall", target=target)
    assert (scores[:100] > threshold.value).sum() == caught


def test_where_no_pass_lies_below_it_is_half_the_lowest_defect() -> None:
    assert fit_threshold([0.8, 0.4, 0.9], [False, True, True], policy="recall").value == 0.2


def test_a_defect_that_scores_nothing_still_fails() -> None:
    threshold = fit_threshold([0.0, 0.0, 0.5], [True, False, False], policy="recall")
    assert threshold.value < 0


def test_a_tie_of_pass_and_defect_fails_both() -> None:
    threshold = fit_threshold([0.1, 0.5, 0.5], [False, False, True], policy="recall")
    assert threshold.value == pytest.approx(0.3)


@pytest.mark.parametrize(("is_defect", "missing"), [([False, False], "defect"), ([True, True], "PASS pair")])
def test_without_both_classes_the_margin_stands_and_is_warned_about(
    is_defect: list[bool], missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        threshold = fit_threshold([0.1, 0.9], is_defect, policy="recall", margin=0.7)
    assert (threshold.value, threshold.policy, threshold.target) == (0.7, "margin", None)
    assert f"no {missing}" in caplog.text


def test_a_margin_is_kept_and_its_recall_interval_reported() -> None:
    threshold = fit_threshold([0.1, 0.9, 0.4], [False, True, True], policy="margin", margin=0.5)
    assert (threshold.value, threshold.policy) == (0.5, "margin")
    assert threshold.interval == pytest.approx((0.0126, 0.9874), abs=1e-4)


@pytest.mark.parametrize("target", [0.0, -0.1, 1.01, float("nan")])
def test_impossible_targets_are_refused(target: float) -> None:
    with pytest.raises(ValueError, match="target"):
        fit_threshold([0.1, 0.9], [False, True], policy="recall", target=target)
