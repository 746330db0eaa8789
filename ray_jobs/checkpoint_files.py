"""Which checkpoint files a training run writes, and which of them it keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from changenet import storage
from changenet.spec import Experiment
from changenet.training.checkpoint import Checkpoint, save_checkpoint
from ray_jobs.metrics_csv import METRICS, read_epochs

LATEST = "changenet_model_classify_latest.pth"
BEST = "model_best.pth"


def checkpoint_name(epoch: int, step: int) -> str:
    """Return the name of a checkpoint file: zero-based epoch, steps done.

    >>> checkpoint_name(0, 12)
    'model_epoch_000_step_00012.pth'
    """
    return f"model_epoch_{epoch:03d}_step_{step:05d}.pth"


def is_checkpoint_name(name: str) -> bool:
    """Say whether a file may be one that `checkpoint_name` named."""
    return name.startswith("model_epoch_") and name.endswith(".pth")


def latest_name(folder: str) -> str | None:
    """Return the name of a folder's latest checkpoint: machines may see the folder itself under other names."""
    path = storage.resolve_latest(storage.join(folder, LATEST))
    return None if path is None else storage.file_name(path)


class CheckpointFiles:
    """The checkpoints of a run's folder. Rank 0 alone has one.

    Periodic ones and `model_best.pth` are always written; with `train.checkpointer.enable_topk` the `save_top_k` best
    epochs have files of their own, and with `replace_periodic` only the newest periodic one stays, for a run to go on from:
    those that this run has written before go, and no other file.

    Args:
        folder: RESULTS/train.
        experiment: The spec.
        first_epoch: Where the run begins; epochs before it are those of an earlier start.
    """

    def __init__(self, folder: str, experiment: Experiment, *, first_epoch: int) -> None:
        self._folder, self._key = folder, experiment.secret()
        self._settings = experiment.train.checkpointer
        self._monitor, mode = experiment.monitor
        self._sign = 1.0 if mode == "min" else -1.0
        self._ranking: list[tuple[float, str]] = []
        before = [figures for figures in read_epochs(folder) if figures["epoch"] < first_epoch]
        for figures in before:
            self._rank(figures)
        train = experiment.train
        # Those that the spec names stay: the next start asks for them.
        spared = (train.resume_training_checkpoint_path, train.pretrained_model_path)
        written = {checkpoint_name(int(figures["epoch"]), int(figures["step"])) for figures in before}
        mine = {*written, latest_name(folder)} - {storage.file_name(path) for path in spared if path}
        self._periodic = [name for name in storage.names_inside(folder) if name in mine]

    def is_ranked(self, figures: Mapping[str, Any]) -> bool:
        """Say whether an epoch is one of the best so far, which get a file of their own."""
        return self._place(figures) is not None

    def write(self, checkpoint: Checkpoint, figures: Mapping[str, Any], *, periodic: bool, best: bool) -> str | None:
        """Write what is due, drop what is out of date, and return a file that a run can go on from (None: none was due).

        Args:
            checkpoint: The run's state.
            figures: Of the epoch, under the names of `metrics.csv`; `epoch` and `step` at least.
            periodic: Whether a periodic checkpoint is due.
            best: Whether this is the best epoch so far.
        """
        written = None
        if best:
            written = self._save(BEST, checkpoint)
        if (place := self._place(figures)) is not None:
            written = self._save(place[1], checkpoint)
            self._rank(figures)
        if periodic:
            name = checkpoint_name(int(figures["epoch"]), int(figures["step"]))
            written = self._save(name, checkpoint)
            storage.set_latest(storage.join(self._folder, LATEST), name)
            if self._settings.replace_periodic:
                self._remove(old for old in self._periodic if old != name)
                self._periodic = [name]
        return written

    def _save(self, name: str, checkpoint: Checkpoint) -> str:
        path = storage.join(self._folder, name)
        save_checkpoint(path, checkpoint, encryption_key=self._key)
        return path

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            storage.remove(storage.join(self._folder, name))

    def _place(self, figures: Mapping[str, Any]) -> tuple[float, str] | None:
        """Return an epoch's rank (lower is better) and file name; None where it is not among the best."""
        # As metrics.csv shows them, which is where a run that goes on finds the names again.
        values = {name: float(f"{value:.6g}") for name, value in figures.items() if value is not None}
        value = values.get(self._monitor, math.nan)
        most = self._settings.save_top_k
        if not self._settings.enable_topk or math.isnan(value):
            return None
        rank = self._sign * value
        if 0 <= most <= sum(better <= rank for better, _ in self._ranking):
            return None
        counts = {name: int(values[name]) for name in ("epoch", "step")}
        fields = {**dict.fromkeys(METRICS, math.nan), **values, **counts}
        return rank, self._settings.filename.format(**fields) + ".pth"

    def _rank(self, figures: Mapping[str, Any]) -> None:
        """Put an epoch in its place among the best, and drop the file of the one that it pushes out."""
        if (place := self._place(figures)) is None:
            return
        ranking = sorted([*(entry for entry in self._ranking if entry[1] != place[1]), place])
        most = self._settings.save_top_k
        self._ranking = ranking if most < 0 else ranking[:most]
        self._remove(name for _, name in ranking[len(self._ranking) :])
