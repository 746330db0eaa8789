"""`changenet inference`: PASS or FAIL for every row of the infer set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ray_jobs.action import Action
from ray_jobs.console import out, result_table
from ray_jobs.scores_csv import check_columns, write_scores
from ray_jobs.trained import TrainedNetwork


def run(spec: str, overrides: Sequence[str] = (), *, address: str | None = None) -> int:
    """Score the infer set and write `inference.csv`; labels are not needed.

    Raises:
        SpecError: The spec is wrong or contradicts the checkpoint.
        DataError: The CSV file is wrong; or rows could not be scored, after everything was written.
        CheckpointError: The checkpoint cannot be used.
    """
    with Action.load("inference", spec, overrides) as action:
        trained = TrainedNetwork(action.experiment, "inference", address=address)
        source = trained.rows("infer")
        check_columns(source.annotations)
        threshold = trained.threshold()
        scored = trained.score(source, threshold=threshold, title="Inspecting")
        path = action.path("inference.csv")
        write_scores(path, source.annotations, scored)
        trained.finish()
        _print_counts(scored.predictions, threshold.value, path)
        scored.raise_errors(source.annotations, written=path)
    return 0


def _print_counts(predictions: Any, threshold: float, path: str) -> None:
    names, counts = np.unique(predictions.astype(str), return_counts=True)
    rows = [(name, f"{count:,}") for name, count in zip(names, counts, strict=True)]
    out.print(result_table(f"Inference at threshold {threshold:.6g}", ("prediction", "rows"), rows))
    out.print(f"Scores: {path}", soft_wrap=True)
