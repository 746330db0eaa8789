"""The figures of `metrics.json`: what a threshold decides on labelled pairs, and how sure each figure is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from changenet.description import BINARY_CLASSES, PASS, Threshold
from changenet.evaluation.curves import auroc, average_precision, checked, operating_points
from changenet.evaluation.intervals import clopper_pearson

FAIL = "FAIL"


def decision_metrics(
    scores: Any,
    is_defect: Any,
    threshold: Threshold,
    *,
    labels: Sequence[str] | None = None,
    predictions: Sequence[str] | None = None,
    classes: Sequence[str] = BINARY_CLASSES,
) -> dict[str, Any]:
    """Return every figure of `metrics.json`; what is undefined is None.

    Shares are 0-1, each with its 95 % Clopper-Pearson interval beside it; those under `tao` are percentages by the
    formulas of TAO 7.3 (false calls over PASS pairs, escapes over defects). Recall of PASS in `per_label` is the share
    called PASS, of any other label the share called defective, whichever defect class was named; `per_class` has the share
    that was given its own class.

    Args:
        scores: (N,) finite scores.
        is_defect: (N,) truth.
        threshold: A pair fails when its score is strictly greater.
        labels: (N,) label of each pair; adds `per_label`.
        predictions: (N,) class names from `predict`; with `labels`, adds `per_class` and `confusion_matrix`.
        classes: Names of the outputs, in order, that `predictions` are from.

    Raises:
        ValueError: The lengths differ, or a score is NaN or infinite.

    >>> figures = decision_metrics([0.1, 0.6, 0.9], [False, False, True], Threshold(0.5))
    >>> figures["recall"], figures["false_call_rate"], figures["auroc"], figures["tao"]["test_fpr"]
    (1.0, 0.5, 1.0, 50.0)
    """
    scores, is_defect = checked(scores, is_defect)
    fails = scores > threshold.value
    pairs, defects = len(scores), int(is_defect.sum())
    passes = pairs - defects
    caught, false_calls = int((fails & is_defect).sum()), int((fails & ~is_defect).sum())
    escapes, correct = defects - caught, caught + passes - false_calls
    points = operating_points(scores, is_defect)
    unavoidable = int((scores[~is_defect] >= scores[is_defect].min()).sum()) if defects else 0
    f1, f1_interval = _f1(caught, false_calls + escapes)
    figures: dict[str, Any] = {
        "pairs": pairs,
        "passes": passes,
        "defects": defects,
        "threshold": threshold.value,
        "threshold_policy": threshold.policy,
        **_rate("accuracy", correct, pairs),
        **_rate("recall", caught, defects),
        **_rate("precision", caught, caught + false_calls),
        "f1": f1,
        "f1_interval": f1_interval,
        **_rate("false_call_rate", false_calls, passes),
        **_rate("escape_rate", escapes, defects),
        "auroc": auroc(points),
        "average_precision": average_precision(points),
        **_rate("false_call_rate_at_full_recall", unavoidable, passes if defects else 0),
    }
    if labels is not None:
        figures["per_label"] = _per_label(labels, fails)
        if predictions is not None:
            figures["per_class"] = _per_class(labels, predictions, classes)
            figures["confusion_matrix"] = confusion_matrix(labels, predictions, classes)
    figures["tao"] = {
        "test_acc": _percent(correct, pairs),
        "test_fpr": _percent(false_calls, passes),
        "test_fnr": _percent(escapes, defects),
        "defect_acc": _percent(caught, defects) or 0.0,  # TAO 7.3: 0 without defects
    }
    return figures


def predict(
    scores: Any, threshold: Threshold, *, classes: Sequence[str] = BINARY_CLASSES, probabilities: Any = None
) -> NDArray[np.str_]:
    """Return (N,) decisions: PASS or FAIL; with class probabilities the most probable class that is not PASS for FAIL.

    Args:
        scores: (N,) scores; NaN fails.
        threshold: A pair fails when its score is strictly greater.
        classes: (C,) names of the outputs; PASS is one of them.
        probabilities: (N, C) class probabilities, when the classes are real ones.

    >>> predict([0.2, 0.7], Threshold(0.5), classes=("PASS", "open", "short"), probabilities=[[0.8, 0.2, 0], [0.3, 0.1, 0.6]])
    array(['PASS', 'short'], dtype='<U5')
    """
    fails = ~(np.asarray(scores, dtype=np.float64) <= threshold.value)  # NaN must not pass
    if probabilities is None:
        return np.where(fails, FAIL, PASS)
    defect_classes = [index for index, name in enumerate(classes) if name != PASS]
    chosen = np.asarray(probabilities, dtype=np.float64).reshape(-1, len(classes))[:, defect_classes].argmax(axis=1)
    return np.where(fails, np.array([classes[index] for index in defect_classes])[chosen], PASS)


def confusion_matrix(labels: Sequence[str], predictions: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Return `{"labels": rows, "predictions": columns, "counts": (rows, columns)}`.

    Rows and columns are the classes, in their order; labels that are no class follow as rows, by name.

    >>> confusion_matrix(["PASS", "open", "odd"], ["PASS", "short", "open"], ["PASS", "open", "short"])["counts"]
    [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]]
    """
    rows = [*classes, *sorted(set(labels) - set(classes))]
    table = pd.crosstab(np.asarray(labels, dtype=object), np.asarray(predictions, dtype=object))
    counts = table.reindex(index=rows, columns=list(classes), fill_value=0)
    return {"labels": rows, "predictions": list(classes), "counts": counts.to_numpy(dtype=int).tolist()}


def score_histogram(scores: Any, is_defect: Any) -> dict[str, list[float]]:
    """Return `{"edges": numbers that rise, "PASS": counts, "defect": counts}`; between two edges lies one count of each.

    50 bins of equal width reach over 0-1, or 0 to the highest score above 1. Inside them more edges part the scores of
    each kind into 20 shares of about equal size, as far as equal scores allow: a sharp network has all its PASS scores
    within one bin of equal width, where a score ten times as high would go unseen.

    Raises:
        ValueError: The lengths differ, or a score is NaN or infinite.
    """
    scores, is_defect = checked(scores, is_defect)
    kinds = {"PASS": scores[~is_defect], "defect": scores[is_defect]}
    even = np.linspace(min(0.0, scores.min(initial=0.0)), max(1.0, scores.max(initial=1.0)), 51)
    edges = np.unique(np.concatenate([even, *map(_between, kinds.values())]))
    return {"edges": edges.tolist()} | {name: np.histogram(of, edges)[0].tolist() for name, of in kinds.items()}


def _between(scores: NDArray[np.float64], shares: int = 20) -> NDArray[np.float64]:
    """Return where to part scores into shares: in the middle of two neighbours, so that equal scores stay together."""
    distinct, counts = np.unique(scores, return_counts=True)
    # The gap behind the score with which a share is full; behind the last one there is none.
    full = np.searchsorted(np.cumsum(counts), np.arange(1, shares) * len(scores) / shares)
    full = np.unique(full[full < len(distinct) - 1])
    return (distinct[full] + distinct[full + 1]) / 2


def _rate(name: str, hits: int, trials: int) -> dict[str, Any]:
    interval = clopper_pearson(hits, trials)
    return {name: hits / trials if trials else None, f"{name}_interval": list(interval) if interval else None}


def _percent(hits: int, trials: int) -> float | None:
    return 100 * hits / trials if trials else None


def _f1(caught: int, wrong: int) -> tuple[float | None, list[float] | None]:
    """F1 rises with the share of caught among caught and wrong, a binomial proportion, which gives its interval."""
    interval = clopper_pearson(caught, caught + wrong)
    if interval is None:
        return None, None
    return 2 * caught / (2 * caught + wrong), [2 * share / (1 + share) for share in interval]


def _per_label(labels: Sequence[str], fails: NDArray[np.bool_]) -> dict[str, dict[str, Any]]:
    frame = pd.DataFrame({"label": np.asarray(labels, dtype=object), "fails": fails})
    groups = {str(name): group["fails"] for name, group in frame.groupby("label")}
    table: dict[str, dict[str, Any]] = {}
    for name in _pass_first(groups):
        pairs, failing = len(groups[name]), int(groups[name].sum())
        table[name] = {"pairs": pairs, **_rate("recall", pairs - failing if name == PASS else failing, pairs)}
    return table


def _per_class(labels: Sequence[str], predictions: Sequence[str], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    truth, called = np.asarray(labels, dtype=object), np.asarray(predictions, dtype=object)
    table: dict[str, dict[str, Any]] = {}
    for name in classes:
        pairs, right = int((truth == name).sum()), int(((truth == name) & (called == name)).sum())
        precision = _rate("precision", right, int((called == name).sum()))
        table[name] = {"pairs": pairs, **_rate("recall", right, pairs), **precision}
    return table


def _pass_first(names: Any) -> list[str]:
    return sorted(names, key=lambda name: (name != PASS, name))
