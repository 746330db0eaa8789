"""Reading `metrics.csv`, the figures of a training run, a line an epoch. `ray_jobs.train_log` writes it."""

from __future__ import annotations

import csv
import io

from changenet import storage

METRICS_CSV = "metrics.csv"


def read_epochs(folder: str) -> list[dict[str, float]]:
    """Return the figures of each epoch of a run, without those that it has none of; nothing where no epoch has ended.

    Args:
        folder: RESULTS/train, path or URI.
    """
    path = storage.join(folder, METRICS_CSV)
    if not storage.exists(path):
        return []
    rows = csv.DictReader(io.StringIO(storage.read_text(path)))
    return [{name: float(cell) for name, cell in row.items() if cell} for row in rows]
