"""`report.html`: one file with figures, plots and pictures inside it, readable anywhere and years later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import numpy as np

from changenet import storage
from changenet.data.lights import PictureLayout
from changenet.description import BINARY_CLASSES, PASS
from changenet.evaluation.cost import BATCHES
from changenet.evaluation.curves import operating_points
from changenet.evaluation.metrics import FAIL
from changenet.evaluation.report.cases import Case, case_pictures, data_uri
from changenet.evaluation.report.plots import confusion_plot, precision_recall_plot, roc_plot, score_plot
from changenet.evaluation.report.wording import amount, number, percent

REPORT = "report.html"
UNSCORED_SHOWN = 50

# (key in the metrics, name for people, what it says, whether it is a share shown in percent)
_FIGURES = (
    ("recall", "Recall", "defects called FAIL", True),
    ("escape_rate", "Escape rate", "defects called PASS", True),
    ("false_call_rate", "False-call rate", "PASS pairs called FAIL", True),
    (
        "false_call_rate_at_full_recall",
        "False-call rate at full recall",
        "PASS pairs that score at least as high as the lowest defect",
        True,
    ),
    ("accuracy", "Accuracy", "pairs decided rightly", True),
    ("precision", "Precision", "FAILs that are defects", True),
    ("f1", "F1", "harmonic mean of precision and recall", False),
    ("auroc", "AUROC", "share of defect and PASS couples in the right order", False),
    ("average_precision", "Average precision", "area under precision and recall", False),
)
COMPARISON_COLUMNS = (
    *("engine", "AUROC", "false calls at full recall", "agreement", "largest score difference", "MB"),
    *(f"ms, batch {batch}" for batch in BATCHES),
    *("pairs/s", "memory, MB"),
)
_HEADLINES = ("recall", "false_call_rate", "false_call_rate_at_full_recall", "auroc")


@dataclass(frozen=True)
class Gallery:
    """A group of pairs shown with their pictures.

    Args:
        title: Heading.
        note: What they have in common, or that there are none.
        cases: The pairs.
    """

    title: str
    note: str
    cases: Sequence[Case] = field(default_factory=tuple)


def write_report(
    folder: str,
    *,
    title: str,
    figures: Mapping[str, Any],
    scores: Any,
    is_defect: Any,
    layout: PictureLayout,
    galleries: Sequence[Gallery] = (),
    unscored: Sequence[str] = (),
    comparison: Mapping[str, Any] | None = None,
    provenance: Mapping[str, str],
) -> str:
    """Write the plots as PNG files and `report.html`, which holds them too, and return its path.

    Args:
        folder: Local path or URI.
        title: Heading of the page.
        figures: The result of `decision_metrics`.
        scores: (N,) scores.
        is_defect: (N,) truth.
        layout: How the pictures of the galleries are put together.
        galleries: Pairs to show.
        unscored: One line for each row that could not be scored.
        comparison: The content of a `comparison.json` that belongs to the network.
        provenance: Name and value of whatever tells where the figures come from.
    """
    points = operating_points(scores, is_defect)
    matrix = figures.get("confusion_matrix") or _binary_matrix(figures, scores, is_defect)
    plots = {
        "roc.png": roc_plot(points, figures),
        "precision_recall.png": precision_recall_plot(points, figures),
        "score_histogram.png": score_plot(scores, is_defect, figures["threshold"]),
        "confusion_matrix.png": confusion_plot(matrix),
    }
    for name, png in plots.items():
        storage.write_bytes(storage.join(folder, name), png)
    page = template("report.html.jinja").render(
        title=title,
        summary=_summary(figures),
        good=figures["escape_rate"] == 0,
        headlines=[row for row in figure_rows(figures) if row["key"] in _HEADLINES],
        rows=figure_rows(figures),
        figures=figures,
        per_label=figures.get("per_label", {}),
        per_class=figures.get("per_class", {}),
        plots={name.removesuffix(".png"): data_uri(png) for name, png in plots.items()},
        galleries=[
            {
                "title": gallery.title,
                "note": gallery.note,
                "cases": [{"case": case, "pictures": case_pictures(case, layout)} for case in gallery.cases],
            }
            for gallery in galleries
        ],
        wide=layout.tiles != (1, 1),
        unscored=unscored[:UNSCORED_SHOWN],
        unscored_more=max(len(unscored) - UNSCORED_SHOWN, 0),
        comparison=comparison,
        comparison_columns=COMPARISON_COLUMNS,
        comparison_rows=[comparison_cells(row) for row in comparison["engines"]] if comparison else [],
        provenance=provenance,
    )
    path = storage.join(folder, REPORT)
    storage.write_text(path, page)
    return path


def figure_rows(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the figures of `decision_metrics` as people read them: key, name, meaning, value, interval."""
    rows = []
    for key, name, meaning, is_share in _FIGURES:
        show = percent if is_share else number
        interval = figures.get(f"{key}_interval")
        between = f"{show(interval[0])} to {show(interval[1])}" if interval else ""
        rows.append({"key": key, "name": name, "meaning": meaning, "value": show(figures[key]), "interval": between})
    return rows


def comparison_cells(row: Mapping[str, Any]) -> list[str]:
    """Return a row of `comparison.json` as people read it, in the order of `COMPARISON_COLUMNS`."""
    return [
        f"{row['engine']} {row['precision']}" + (" on the GPU" if row.get("device", "cpu") != "cpu" else ""),
        number(row.get("auroc")),
        percent(row.get("false_call_rate_at_full_recall")),
        "" if row.get("agreement") is None else percent(row["agreement"]),
        "" if row.get("max_score_difference") is None else number(row["max_score_difference"]),
        f"{row['size_mb']:,.1f}",
        *(amount(milliseconds, digits=1) for milliseconds in row["latency_ms"].values()),
        amount(row["pairs_per_second"], digits=1),
        amount(row["memory_mb"], digits=0),
    ]


def _summary(figures: Mapping[str, Any]) -> str:
    defects, passes = figures["defects"], figures["passes"]
    caught = round((figures["recall"] or 0) * defects)
    false_calls = round((figures["false_call_rate"] or 0) * passes)
    parts = []
    if defects:
        parts.append(f"{caught:,} of {defects:,} defects caught")
    if passes:
        parts.append(f"{false_calls:,} of {passes:,} good pairs called FAIL")
    return "; ".join(parts) or "No pair was scored"


def _binary_matrix(figures: Mapping[str, Any], scores: Any, is_defect: Any) -> dict[str, Any]:
    fails = np.asarray(scores, dtype=np.float64) > figures["threshold"]
    truth = np.asarray(is_defect, dtype=bool)
    counts = [[int((rows & columns).sum()) for columns in (~fails, fails)] for rows in (~truth, truth)]
    return {"labels": list(BINARY_CLASSES), "predictions": [PASS, FAIL], "counts": counts}


def template(name: str) -> jinja2.Template:
    """Return a template of this folder."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("changenet.evaluation.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment.get_template(name)
