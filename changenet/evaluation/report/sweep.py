"""`report.html` of a sweep: one file with its plots inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from changenet import storage
from changenet.evaluation.report.cases import data_uri
from changenet.evaluation.report.html import REPORT, figure_rows, template


def write_sweep_report(
    folder: str,
    *,
    title: str,
    summary: str,
    plots: Mapping[str, bytes],
    columns: Sequence[str],
    trials: Sequence[Sequence[str]],
    best: str,
    figures: Mapping[str, Any] | None,
    provenance: Mapping[str, str],
) -> str:
    """Write `report.html` and return its path.

    Args:
        folder: Local path or URI.
        title: Heading of the page.
        summary: One sentence.
        plots: PNG bytes of `parallel`, `importance` and `curves`.
        columns: Of the table of trials; the first is the name.
        trials: A row of texts a trial, the best first.
        best: Name of the best trial.
        figures: Its metrics on validation (`decision_metrics`), or None.
        provenance: Name and value of whatever tells where the figures come from.
    """
    page = template("sweep.html.jinja").render(
        title=title,
        summary=summary,
        plots={name: data_uri(png) for name, png in plots.items()},
        columns=columns,
        trials=trials,
        best=best,
        figures=figures,
        rows=figure_rows(figures) if figures else [],
        provenance=provenance,
        wide=False,
    )
    path = storage.join(folder, REPORT)
    storage.write_text(path, page)
    return path
