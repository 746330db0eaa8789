from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changenet.description import Threshold
from changenet.evaluation.intervals import clopper_pearson
from changenet.evaluation.metrics import confusion_matrix, decision_metrics, predict, score_histogram

CONTRACT = [
    "pairs",
    "passes",
    "defects",
    "threshold",
    "threshold_policy",
    "accuracy",
    "recall",
    "precision",
    "f1",
    "false_call_rate",
    "escape_rate",
    "auroc",
    "average_precision",
    "false_call_rate_at_full_recall",
    "per_label",
    "tao",
]
RATES = ("accuracy", "recall", "precision", "f1", "false_call_rate", "escape_rate", "false_call_rate_at_full_recall")

SCORES = [0.1, 0.2, 0.5, 0.7, 0.6, 0.9, 0.3, 0.95]
LABELS = ["PASS", "PASS", "PASS", "PASS", "open", "open", "short", "short"]
IS_DEFECT = [label != "PASS" for label in LABELS]


def test_every_field_of_the_contract_has_its_value() -> None:
    figures = decision_metrics(SCORES, IS_DEFECT, Threshold(0.5, "recall", 0.9), labels=LABELS)
    assert set(CONTRACT) <= set(figures)
    # 0.5 is not above 0.5: PASS. Caught: 0.6, 0.9, 0.95; false call: 0.7; escape: 0.3.
    assert [figures[name] for name in ("pairs", "passes", "defects", "threshold", "threshold_policy")] == [
        *(8, 4, 4, 0.5, "recall")
    ]
    assert figures["accuracy"] == 6 / 8
    assert figures["recall"] == figures["precision"] == figures["f1"] == 3 / 4
    assert figures["false_call_rate"] == figures["escape_rate"] == 1 / 4
    assert figures["false_call_rate_at_full_recall"] == 2 / 4
    assert figures["auroc"] == 13 / 16
    assert figures["average_precision"] == pytest.approx((1 + 1 + 3 / 4 + 4 / 6) / 4)
    assert figures["per_label"]["PASS"]["recall"] == 3 / 4
    assert figures["per_label"]["open"] == {
        "pairs": 2,
        "recall": 1.0,
        "recall_interval": pytest.approx([0.1581, 1.0], abs=1e-4),
    }
    assert figures["per_label"]["short"]["recall"] == 0.5
    assert figures["tao"] == {"test_acc": 75.0, "test_fpr": 25.0, "test_fnr": 25.0, "defect_acc": 75.0}


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["PASS", "open", "short"])), max_size=30),
    st.integers(-1, 6),
)
@settings(max_examples=150, deadline=None)
def test_figures_hold_together_and_are_plain_json(rows: list[tuple[int, str]], cut: int) -> None:
    scores, labels = [score for score, _ in rows], [label for _, label in rows]
    is_defect = [label != "PASS" for label in labels]
    figures = decision_metrics(scores, is_defect, Threshold(cut), labels=labels)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    for rate in RATES:
        value, interval = figures[rate], figures[f"{rate}_interval"]
        assert (value is None) == (interval is None)
        if value is not None:
            assert 0 <= interval[0] <= value <= interval[1] <= 1
    assert sum(row["pairs"] for row in figures["per_label"].values()) == figures["pairs"]
    if figures["defects"]:
        assert figures["recall"] + figures["escape_rate"] == pytest.approx(1)
        assert figures["tao"]["defect_acc"] == pytest.approx(100 * figures["recall"])
    else:
        assert figures["recall"] is figures["tao"]["test_fnr"] is figures["false_call_rate_at_full_recall"] is None
        assert figures["tao"]["defect_acc"] == 0


def test_nothing_at_all_is_undefined_not_an_error() -> None:
    figures = decision_metrics([], [], Threshold(0.5), labels=[])
    assert figures["pairs"] == 0
    assert figures["accuracy"] is figures["auroc"] is figures["precision"] is figures["f1"] is None
    assert figures["per_label"] == {}


def test_a_score_that_is_no_number_is_refused_rather_than_passed() -> None:
    with pytest.raises(ValueError, match="NaN"):
        decision_metrics([0.1, float("nan")], [False, True], Threshold(0.5))
    assert list(predict([float("nan")], Threshold(0.5))) == ["FAIL"]


def test_a_single_precision_score_equal_to_the_threshold_passes() -> None:
    assert list(predict(np.array([0.5, 0.50001], dtype=np.float32), Threshold(0.5))) == ["PASS", "FAIL"]


def test_real_classes_name_the_most_probable_defect_only_above_the_threshold() -> None:
    classes = ("open", "PASS", "short")
    probabilities = [[0.3, 0.6, 0.1], [0.1, 0.6, 0.3], [0.5, 0.1, 0.4]]
    scores = 1 - np.array(probabilities)[:, 1]
    predictions = predict(scores, Threshold(0.39), classes=classes, probabilities=probabilities)
    assert list(predictions) == ["open", "short", "open"]
    assert list(predict(scores, Threshold(0.5), classes=classes, probabilities=probabilities)) == [
        *("PASS", "PASS", "open")
    ]


def test_classes_have_their_own_recall_precision_and_confusion_matrix() -> None:
    classes = ("PASS", "short", "open", "spur")
    labels = ["PASS", "PASS", "open", "open", "short", "scratch"]
    predictions = ["PASS", "short", "open", "short", "short", "open"]
    figures = decision_metrics(
        [0.1, 0.9, 0.9, 0.9, 0.9, 0.9],
        [label != "PASS" for label in labels],
        Threshold(0.5),
        labels=labels,
        predictions=predictions,
        classes=classes,
    )
    assert figures["recall"] == 1.0  # every defect was called defective, though not each by its own name
    assert figures["per_label"]["open"]["recall"] == 1.0
    by_class = figures["per_class"]
    assert {name: (row["pairs"], row["recall"], row["precision"]) for name, row in by_class.items()} == {
        "PASS": (2, 0.5, 1.0),
        "short": (1, 1.0, pytest.approx(1 / 3)),
        "open": (2, 0.5, 0.5),
        "spur": (0, None, None),
    }
    assert by_class["open"]["recall_interval"] == pytest.approx([0.0126, 0.9874], abs=1e-4)
    assert by_class["spur"]["recall_interval"] is None
    assert figures["confusion_matrix"] == {
        "labels": ["PASS", "short", "open", "spur", "scratch"],
        "predictions": ["PASS", "short", "open", "spur"],
        "counts": [[1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0]],
    }
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert not {"per_class", "confusion_matrix"} & set(
        decision_metrics([0.1], [False], Threshold(0.5), labels=["PASS"])
    )


def test_a_confusion_matrix_of_nothing_has_every_class() -> None:
    assert confusion_matrix([], [], ["PASS", "open"])["counts"] == [[0, 0], [0, 0]]


def test_the_histogram_counts_every_score_once() -> None:
    histogram = score_histogram([0.0, 0.5, 1.0, 4.0], [False, False, True, True])
    assert histogram["edges"][0] == 0
    assert histogram["edges"][-1] == 4
    assert (sum(histogram["PASS"]), sum(histogram["defect"])) == (2, 2)
    assert score_histogram([0.2], [False])["edges"][-1] == 1


def test_the_histogram_of_a_sharp_network_parts_the_scores_of_each_kind_evenly() -> None:
    logits = np.random.default_rng(0).normal(-12, 1.5, 1000)
    scores = 1 / (1 + np.exp(np.concatenate([logits, -logits])))
    histogram = score_histogram(scores, np.arange(2000) >= 1000)
    for kind in ("PASS", "defect"):
        assert max(histogram[kind]) <= 100, "no bin holds more than two of the 20 shares"


def test_equal_scores_are_one_share_and_part_the_others_none_the_less() -> None:
    random = np.random.default_rng(1)
    scores = np.concatenate([np.ones(300), 1 - random.random(700) * 1e-4])
    histogram = score_histogram(scores, np.ones(1000, bool))
    assert max(histogram["defect"]) <= 350
    assert sum(count > 0 for count in histogram["defect"]) >= 12


@given(
    scores=st.lists(st.floats(0, 3, width=32), max_size=60),
    kinds=st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_a_histogram_keeps_its_even_edges_and_all_scores(scores: list[float], kinds: list[bool]) -> None:
    is_defect = kinds[: len(scores)]
    histogram = score_histogram(scores, is_defect)
    edges = np.array(histogram["edges"])
    assert (np.diff(edges) > 0).all()
    assert set(np.linspace(0, max(1.0, *scores, 1.0), 51)) <= set(edges)
    assert sum(histogram["defect"]) == sum(is_defect)
    assert sum(histogram["PASS"]) == len(scores) - sum(is_defect)


@pytest.mark.parametrize(
    ("hits", "trials", "expected"),
    [(0, 10, (0, 0.3085)), (10, 10, (0.6915, 1)), (5, 10, (0.1871, 0.8129)), (0, 0, None)],
)
def test_intervals_are_the_exact_ones(hits: int, trials: int, expected: tuple[float, float] | None) -> None:
    assert clopper_pearson(hits, trials) == (pytest.approx(expected, abs=1e-4) if expected else None)
