"""The population stability index, and the window of scores that it is computed over."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from changenet.evaluation.metrics import score_histogram
from serve.drift import EVERY, LEAST, WINDOW, ScoreWindow, has_scores, population_stability

counts = st.lists(st.integers(0, 1000), min_size=2, max_size=10)


def good(count, seed=0, shift=0.0):
    return np.clip(np.random.default_rng(seed).beta(2, 12, count) + shift, 0, 1)


def bad(count, seed=1):
    return np.random.default_rng(seed).beta(12, 2, count)


@pytest.fixture
def histogram():
    scores = np.concatenate([good(1000), bad(250)])
    return score_histogram(scores, np.arange(1250) >= 1000)


def last(window, scores):
    found = [index for index in map(window.add, scores) if index is not None]
    return found[-1] if found else None


def test_a_known_example():
    # Shares 0.5, 0.5 against 0.8, 0.2: (0.3 ln 1.6) - (0.3 ln 0.4), with half a count more in each bin of a million.
    assert population_stability([500_000, 500_000], [800_000, 200_000]) == pytest.approx(0.4159, abs=1e-3)


@given(counts=counts)
def test_equal_counts_have_no_index_and_others_a_positive_one(counts):
    assert population_stability(counts, counts) == pytest.approx(0)
    assert population_stability(counts, counts[::-1]) >= -1e-12


def test_scores_like_those_of_validation_are_no_drift(histogram):
    assert last(ScoreWindow(histogram, 0.5), good(1000, seed=7)) < 0.1


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_another_share_of_defects_is_no_drift(histogram, share):
    count = round(1000 * share)
    scores = np.random.default_rng(3).permutation(np.concatenate([good(1000 - count, 8), bad(count, 9)]))
    assert last(ScoreWindow(histogram, 0.5), scores) < 0.1


def test_good_parts_that_look_worse_are_drift(histogram):
    assert last(ScoreWindow(histogram, 0.5), good(1000, 8, shift=0.08)) > 0.25


def sharp(count, seed=0, shift=0.0, kind=-1):
    """Scores of a network whose PASS scores all lie below 0.001: softmax of logits that are far apart."""
    return 1 / (1 + np.exp(-kind * np.random.default_rng(seed).normal(12 - shift, 1.5, count)))


@pytest.mark.parametrize(("good_count", "bad_count"), [(1000, 250), (120, 30), (100, 900), (5000, 20)])
def test_the_scores_of_a_sharp_network_drift_long_before_a_decision_changes(good_count, bad_count):
    validation = np.concatenate([sharp(good_count), sharp(bad_count, 1, kind=1)])
    scores = score_histogram(validation, np.arange(good_count + bad_count) >= good_count)
    assert sharp(1000, 2, shift=3).max() < 0.1, "far below the threshold"
    assert last(ScoreWindow(scores, 0.5), sharp(1000, 2, shift=3)) > 0.25
    assert last(ScoreWindow(scores, 0.5), sharp(1000, 2)) < 0.1
    mixed = np.random.default_rng(3).permutation(np.concatenate([sharp(950, 4), sharp(50, 5, kind=1)]))
    assert last(ScoreWindow(scores, 0.5), mixed) < 0.1


def test_a_small_validation_set_is_no_drift_by_chance():
    for seed in range(10):
        validation = np.concatenate([good(32, seed), bad(8, seed)])
        window = ScoreWindow(score_histogram(validation, np.arange(40) >= 32), 0.5)
        assert last(window, good(1000, seed + 100)) < 0.25


def test_old_scores_are_forgotten(histogram):
    window = ScoreWindow(histogram, 0.5)
    assert last(window, good(WINDOW, 8, shift=0.2)) > 0.25
    assert last(window, good(WINDOW, 9)) < 0.1


def test_it_is_told_now_and_then_once_there_is_enough(histogram):
    told = [index is not None for index in map(ScoreWindow(histogram, 0.5).add, good(LEAST + 3 * EVERY))]
    assert [number for number, each in enumerate(told, 1) if each] == [LEAST + step * EVERY for step in range(4)]


def test_scores_outside_the_histogram_belong_to_its_ends(histogram):
    window = ScoreWindow(histogram, 0.5)
    assert last(window, [5.0] * LEAST) > 0.25
    assert last(window, [-1.0] * LEAST) > 0.25


@pytest.mark.parametrize("kinds", [([9, 1, 0], [0, 0, 0]), ([0, 0, 0], [0, 2, 2])])
def test_a_validation_set_of_one_kind_stands_for_both(kinds):
    window = ScoreWindow({"edges": [0, 0.3, 0.6, 1], "PASS": kinds[0], "defect": kinds[1]}, 0.5)
    assert last(window, good(LEAST)) is not None


def test_a_bundle_without_validation_scores_has_none():
    assert not has_scores({})
    assert not has_scores({"edges": [0, 1], "PASS": [0], "defect": [0]})
