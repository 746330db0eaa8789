"""How a trial does: its epochs so far, the best of them, and the checkpoints that are kept of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from changenet import storage
from changenet.evaluation.objective import Objective
from ray_jobs.checkpoint_files import checkpoint_name
from ray_jobs.metrics_csv import read_epochs

METRIC = "objective"
EPOCHS = "epochs"
FIGURES = ("val_far", "val_auroc", "val_loss", "threshold")


@dataclass
class Curve:
    """The epochs of a trial so far, and the best of them.

    Args:
        objective: What is better.
        folder: RESULTS/train of the trial.
    """

    objective: Objective
    folder: str
    epochs: int = 0
    seconds: float = 0.0
    value: float | None = None
    best: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def add(self, figures: Mapping[str, Any]) -> None:
        """Note an epoch; of the checkpoints the best and the latest are kept."""
        self.epochs = int(figures["epoch"]) + 1
        self.seconds += figures["seconds"]
        name = checkpoint_name(int(figures["epoch"]), int(figures["step"]))
        value = self.objective.value(figures)
        if value is not None and self.objective.is_better(value, self.value):
            self.value = value
            self.best = {key: figures.get(key) for key in FIGURES} | {"best_epoch": self.epochs, "checkpoint": name}
        for old in self.files:
            if old not in (self.best.get("checkpoint"), name):
                storage.remove(storage.join(self.folder, old))
        self.files = [each for each in (self.best.get("checkpoint"), name) if each]

    def read(self, epochs: int) -> None:
        """Read the first epochs back from `metrics.csv`."""
        for figures in read_epochs(self.folder):
            if figures["epoch"] < epochs:
                self.add(figures)

    def facts(self, *, finished: bool) -> dict[str, Any]:
        """Return what Ray Tune is told: the best so far."""
        return {METRIC: self.value, EPOCHS: self.epochs, "seconds": self.seconds, "finished": finished, **self.best}
