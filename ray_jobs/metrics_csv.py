"""`metrics.csv`: the figures of a training run, a line an epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any, get_args

from changenet import storage
from changenet.spec.train import Monitor
from ray_jobs.console import figure

METRICS_CSV = "metrics.csv"
# Whatever can pick the best checkpoint is in every file.
METRICS: tuple[str, ...] = get_args(Monitor)
COLUMNS = ("epoch", "step", "learning_rate", *METRICS, "threshold", "seconds", "pairs_per_second")


def read_epochs(folder: str) -> list[dict[str, float]]:
    """Return the figures of each epoch of a run, without those that it has none of; nothing where no epoch has ended.

    Args:
        folder: RESULTS/train, path or URI.
    """
    return [{name: float(cell) for name, cell in row.items() if cell} for row in _rows(folder)]


def write_epoch(folder: str, figures: Mapping[str, Any]) -> None:
    """Add the line of an epoch, in the place of those at or after it: a run that goes on does them again."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for row in _rows(folder) if int(row["epoch"]) < figures["epoch"])
    writer.writerow({name: figure(figures.get(name)) for name in COLUMNS})
    storage.write_text(storage.join(folder, METRICS_CSV), text.getvalue())


def _rows(folder: str) -> list[dict[str, str]]:
    path = storage.join(folder, METRICS_CSV)
    return list(csv.DictReader(io.StringIO(storage.read_text(path)))) if storage.exists(path) else []
