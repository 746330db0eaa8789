"""The plots of an evaluation as PNG bytes, drawn without pyplot so that nothing global is touched.

Colours are Okabe and Ito's blue and vermilion: told apart with every common colour blindness and in grey print.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from changenet.evaluation.curves import OperatingPoints
from changenet.evaluation.report.wording import number, percent

GOOD_COLOUR = "#0072b2"
DEFECT_COLOUR = "#d55e00"
INK = "#1f2933"
GRID = "#d9dee4"
DOTS_PER_INCH = 150
CURVE_POINTS = 4000  # more cannot be told apart at this size


def roc_plot(points: OperatingPoints, figures: Mapping[str, Any]) -> bytes:
    """Return the ROC curve, whole and its corner enlarged, with the threshold's operating point, as PNG bytes.

    Args:
        points: All operating points.
        figures: The result of `decision_metrics`.
    """
    figure, (whole, corner) = new_figure(columns=2, width=5.4, height=4.2)
    if not _drawable(whole, points) or not _drawable(corner, points):
        return to_png(figure)
    false_calls, recall = points.false_call_rate(), points.recall()
    kept = _thinned(len(points.cuts))
    needed = figures["false_call_rate_at_full_recall"]
    reach = float(np.clip(1.4 * max(needed, figures["false_call_rate_interval"][1]), 0.01, 1.0))
    bottom = float(np.clip(figures["recall_interval"][0] - 0.02, 0.0, 0.98))
    for axes in (whole, corner):
        axes.plot(false_calls[kept], recall[kept], color=GOOD_COLOUR, linewidth=2, label="network")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="guessing")
        _operating_point(axes, figures, "false_call_rate", "recall")
        _percent_axes(axes, "false-call rate (PASS called FAIL)", "recall (defects called FAIL)")
    whole.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title=f"ROC curve, AUROC {number(figures['auroc'])}")
    whole.legend(loc="lower right", frameon=False)
    margin_x, margin_y = reach / 40, (1 - bottom) / 40
    corner.set(xlim=(-margin_x, reach), ylim=(bottom, 1 + margin_y))
    corner.set_title(f"Enlarged: every defect is caught at {percent(needed)} false calls")
    corner.axvline(needed, color=INK, linewidth=1, linestyle="--")
    return to_png(figure)


def precision_recall_plot(points: OperatingPoints, figures: Mapping[str, Any]) -> bytes:
    """Return the precision-recall curve with the threshold's operating point as PNG bytes (arguments as `roc_plot`)."""
    figure, (axes,) = new_figure()
    if not _drawable(axes, points):
        return to_png(figure)
    kept = _thinned(len(points.cuts))
    axes.plot(points.recall()[kept], points.precision()[kept], color=GOOD_COLOUR, linewidth=2, label="network")
    share = points.defects / (points.defects + points.passes)
    axes.axhline(share, color=INK, linewidth=0.8, linestyle=":", label=f"guessing ({percent(share)} defects)")
    _operating_point(axes, figures, "recall", "precision")
    _percent_axes(axes, "recall (defects called FAIL)", "precision (FAILs that are defects)")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
    axes.set_title(f"Precision and recall, AP {number(figures['average_precision'])}")
    axes.legend(loc="lower left", frameon=False, fontsize=9)
    return to_png(figure)


def score_plot(scores: Any, is_defect: Any, threshold: float, *, bins: int = 60) -> bytes:
    """Return the histogram of PASS and defect scores with the threshold as PNG bytes; counts on a log scale."""
    scores, is_defect = np.asarray(scores, dtype=np.float64), np.asarray(is_defect, dtype=bool)
    figure, (axes,) = new_figure()
    low, high = min(0.0, scores.min(initial=0.0)), max(scores.max(initial=0.0), threshold, 1e-6)
    if high <= 1 and high > 0.5:
        high = 1.0  # probabilities
    edges = np.linspace(low, high, bins + 1).tolist()
    for name, chosen, colour in (("PASS", ~is_defect, GOOD_COLOUR), ("defect", is_defect, DEFECT_COLOUR)):
        if chosen.any():
            label = f"{name} ({int(chosen.sum()):,})"
            axes.hist(scores[chosen], edges, color=colour, alpha=0.45, label=label)
            axes.hist(scores[chosen], edges, color=colour, histtype="step", linewidth=1.6)
    axes.axvline(threshold, color=INK, linewidth=1.6, linestyle="--", label=f"threshold {threshold:.4g}")
    if len(scores):
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.yaxis.set_major_formatter(lambda count, _position: f"{count:,.0f}")
    axes.set(xlabel="score (FAIL to the right of the threshold)", ylabel="pairs (log scale)", title="Scores")
    axes.legend(loc="upper center", fontsize=9, framealpha=0.85, edgecolor="none")
    return to_png(figure)


def confusion_plot(matrix: Mapping[str, Any]) -> bytes:
    """Return the confusion matrix as PNG bytes: counts, coloured by the share of their row.

    Args:
        matrix: `{"labels": rows, "predictions": columns, "counts": (rows, columns)}`.
    """
    rows: Sequence[str] = matrix["labels"]
    columns: Sequence[str] = matrix["predictions"]
    counts = np.array(matrix["counts"], dtype=np.int64).reshape(len(rows), len(columns))
    figure, (axes,) = new_figure(width=max(4.6, 2.4 + len(columns)), height=max(3.9, 1.6 + 0.62 * len(rows)))
    if not counts.size:
        say(axes, "no pairs were scored")
        return to_png(figure)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colours = LinearSegmentedColormap.from_list("share", ["#ffffff", GOOD_COLOUR])
    axes.imshow(shares, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        text = f"{count:,}\n{percent(share)}"
        axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.55 else INK, fontsize=10)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="major", visible=False)
    axes.grid(which="minor", color=GRID, linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="decision", ylabel="label", title="Decisions")
    return to_png(figure)


def new_figure(*, columns: int = 1, width: float = 4.6, height: float = 3.9) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes side by side, each `width` x `height` inches."""
    figure = Figure(figsize=(width * columns, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    all_axes = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
    for axes in all_axes:
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#8895a3")
        axes.tick_params(colors=INK, labelsize=9)
        axes.title.set(fontsize=11, color=INK)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
    return figure, all_axes


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _drawable(axes: Axes, points: OperatingPoints) -> bool:
    if points.defects and points.passes:
        return True
    say(axes, "needs PASS pairs and defects")
    return False


def say(axes: Axes, text: str) -> None:
    """Write a line where there is nothing to draw."""
    axes.text(0.5, 0.5, text, ha="center", va="center", color=INK, transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])


def _operating_point(axes: Axes, figures: Mapping[str, Any], x: str, y: str) -> None:
    """Mark what the threshold does, with the intervals of both figures."""
    if figures[x] is None or figures[y] is None:
        return
    bars = [[[abs(figures[name] - bound)] for bound in figures[f"{name}_interval"]] for name in (x, y)]
    axes.errorbar(
        figures[x],
        figures[y],
        xerr=bars[0],
        yerr=bars[1],
        fmt="o",
        color=DEFECT_COLOUR,
        markersize=6,
        elinewidth=1.2,
        capsize=3,
        zorder=3,
        label=f"threshold {figures['threshold']:.4g} (95 % interval)",
    )


def _percent_axes(axes: Axes, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _thinned(count: int) -> Any:
    return np.unique(np.linspace(0, count - 1, min(count, CURVE_POINTS)).astype(np.int64))
