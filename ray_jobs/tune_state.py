"""What a sweep knows about its trials, in one file that outlives it: a sweep that is started again goes on from there.

Ours, not Ray Tune's snapshot: that one is tied to a Ray version, and may lack the last trials when a sweep is killed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from changenet import storage
from changenet.errors import Problem, SpecError
from changenet.spec.rendering import flow
from ray_jobs.console import figure

STATE = "sweep.json"
TRIALS = "trials.csv"
VERSION = 1
# `failed`: wrong or diverged, and would be again; `crashed`: anything else, which is tried again.
Status = Literal["running", "finished", "stopped", "failed", "crashed", "interrupted"]
OVER = ("finished", "stopped", "failed")
FIGURES: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "false_call_rate_at_full_recall": lambda best: best["val_far"] / 100 if best.get("val_far") is not None else None,
    "auroc": lambda best: best.get("val_auroc"),
    "loss": lambda best: best.get("val_loss"),
    "threshold": lambda best: best.get("threshold"),
}


@dataclass
class Trial:
    """One trial.

    Args:
        name: Also its folder under `trials/`.
        point: What the search algorithm chose.
        values: What that means, by key, without what has no effect.
        status: How it stands.
        epochs: Trained so far.
        objective: Of its best epoch.
        best: Figures of that epoch, `best_epoch`, and the file name of its `checkpoint`.
        seconds: Spent on epochs.
        error: Why it failed.
    """

    name: str
    point: dict[str, Any]
    values: dict[str, Any]
    status: Status = "running"
    epochs: int = 0
    objective: float | None = None
    best: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""


class SweepState:
    """The trials of a sweep, kept in RESULTS/tune.

    Args:
        folder: RESULTS/tune.
        shape: What makes it this sweep and no other, as JSON has it.
    """

    def __init__(self, folder: str, shape: Mapping[str, Any]) -> None:
        self.folder, self.shape = folder, json.loads(json.dumps(shape))
        self.trials: dict[str, Trial] = {}

    @classmethod
    def load(cls, folder: str, shape: Mapping[str, Any]) -> SweepState:
        """Return what is known of the sweep in a folder, or a new one.

        Raises:
            SpecError: The folder holds another sweep: every difference.
        """
        state, path = cls(folder, shape), storage.join(folder, STATE)
        if not storage.exists(path):
            return state
        stored = json.loads(storage.read_text(path))
        there, here = (dict(_flat(each)) for each in (stored["shape"], state.shape))
        keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        if keys or stored["version"] != VERSION:
            fix = (
                "Use --fresh or another results_dir for a new sweep, or the sweep file and the spec that it began with."
            )
            differing = [
                Problem(f"{key} was {flow(there.get(key))} and is {flow(here.get(key))}", path) for key in keys
            ]
            raise SpecError([Problem("the sweep in this folder cannot go on", path, fix), *differing])
        for values in stored["trials"]:
            trial = Trial(**values)
            if trial.status not in OVER:
                trial.status = "interrupted"
            state.trials[trial.name] = trial
        return state

    @property
    def over(self) -> list[Trial]:
        """The trials that are not run again."""
        return [trial for trial in self.trials.values() if trial.status in OVER]

    @property
    def unfinished(self) -> list[Trial]:
        """The trials that were cut short."""
        return [trial for trial in self.trials.values() if trial.status in ("interrupted", "crashed")]

    def begin(self, point: Mapping[str, Any], values: Mapping[str, Any]) -> Trial:
        """Return the trial of a point: one that was cut short, or a new one."""
        known = (trial for trial in self.unfinished if trial.point == point)
        trial = next(known, None)
        if trial is None:
            trial = Trial(f"{len(self.trials):03d}", dict(point), dict(values))
            self.trials[trial.name] = trial
        trial.status, trial.error = "running", ""
        self.save()
        return trial

    def checkpoint(self, trial: Trial) -> str | None:
        """Return the path of a trial's best checkpoint."""
        name = trial.best.get("checkpoint")
        return storage.absolute(self.path(trial, name)) if name else None

    def path(self, trial: Trial, *names: str) -> str:
        """Return a path inside the train folder of a trial."""
        return storage.join(self.folder, "trials", trial.name, "train", *names)

    def save(self) -> None:
        """Write the state, and `trials.csv`."""
        content = {"version": VERSION, "shape": self.shape, "trials": [asdict(trial) for trial in self.trials.values()]}
        storage.write_text(storage.join(self.folder, STATE), json.dumps(content, indent=1))
        storage.write_text(storage.join(self.folder, TRIALS), self._csv())

    def _csv(self) -> str:
        keys = list(self.shape["space"])
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ("name", "status", "epochs", "best_epoch", *keys, "objective", *FIGURES, "seconds", "checkpoint", "error")
        )
        for trial in self.trials.values():
            values = (flow(trial.values[key]) if key in trial.values else "" for key in keys)
            figures = (trial.objective, *(read(trial.best) for read in FIGURES.values()))
            writer.writerow(
                (
                    *(trial.name, trial.status, trial.epochs, trial.best.get("best_epoch", ""), *values),
                    *(figure(value, digits=10) for value in figures),
                    *(f"{trial.seconds:.1f}", self.checkpoint(trial) or "", trial.error),
                )
            )
        return text.getvalue()


def setting(value: Any) -> str:
    """Return a value of a key for people: a rate that was drawn has more digits than they want.

    >>> setting(0.000123456), setting("adamw"), setting(None)
    ('0.0001235', 'adamw', 'null')
    """
    return figure(value, digits=4) if isinstance(value, float) else flow(value)


def _flat(shape: Mapping[str, Any]) -> Any:
    for name, value in shape.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value
