"""What Ray Tune tells while a sweep runs: noted in the sweep's state and shown as a table, a line a trial."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from ray import tune
from rich.console import RenderableType
from rich.live import Live
from rich.table import Table

from ray_jobs.console import err, figure, result_table
from ray_jobs.failures import cluster_failure, last_words, ours
from ray_jobs.tune_state import SweepState, Trial, setting

logger = logging.getLogger(__name__)
SHOWN = 30  # trials in the table while it runs: a terminal has only so many lines


class SweepMonitor(tune.Callback):
    """Keeps the state up to date and the table on the terminal.

    Args:
        state: The sweep's trials.
        total: Trials in all.
        num_epochs: Of a trial that is not stopped early.
        monitor: Where trials put their log records.
    """

    def __init__(self, state: SweepState, *, total: int, num_epochs: int, monitor: Any) -> None:
        self._state, self._total, self._num_epochs, self._monitor = state, total, num_epochs, monitor
        self._live: Live | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_live": None}  # Ray Tune writes its callbacks down

    def __enter__(self) -> SweepMonitor:
        if err.is_terminal:
            self._live = Live(self._table(), console=err, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._look()
        if self._live is not None:
            self._live.stop()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Show that a trial begins."""
        mine = self._state.trials[str(trial)]
        self._say("Trial %s of %d: %s.", mine.name, self._total, _values(mine))

    def on_trial_result(  # noqa: D102 - Ray's
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        result: dict[str, Any],
        **info: Any,  # noqa: ARG002
    ) -> None:
        mine = self._state.trials[str(trial)]
        if "error" in result:
            mine.status, mine.error = "failed", result["error"]
            return
        mine.epochs, mine.seconds, mine.objective = result["epochs"], result["seconds"], result["objective"]
        names = ("val_far", "val_auroc", "val_loss", "threshold", "best_epoch", "checkpoint")
        mine.best = {name: result.get(name) for name in names}
        if result["finished"]:
            mine.status = "finished"
        self._changed()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Note that a trial has ended, by itself or because it fell behind."""
        mine = self._state.trials[str(trial)]
        if mine.status == "running" and mine.objective is None:
            mine.status, mine.error = "failed", "no validation gave a figure to compare"
        elif mine.status == "running":
            mine.status = "stopped"
        if mine.error:
            logger.warning("Trial %s failed: %s", mine.name, mine.error)
            self._changed()
            return
        self._say(
            "Trial %s %s after %d epochs, objective %s.", mine.name, mine.status, mine.epochs, figure(mine.objective)
        )
        self._changed()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Note why a trial failed; the sweep goes on."""
        mine, error = self._state.trials[str(trial)], _error_of(trial)
        mine.status = "failed" if ours(error) else "crashed"
        told = ours(error) or (error and (cluster_failure(error) or last_words(error)))
        mine.error = " ".join(str(told or "the process of the trial ended").split())
        self._look()
        logger.warning("Trial %s %s: %s", mine.name, mine.status, mine.error)
        self._changed()

    def _changed(self) -> None:
        self._state.save()
        self._look()

    def _look(self) -> None:
        """Show the log records of the trials, and the table."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            for name, level, message in ray.get(self._monitor.take.remote())[-1]:
                logging.getLogger(name).log(level, "%s", message)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _say(self, text: str, *values: object) -> None:
        if self._live is None:  # a log has no table
            logger.info(text, *values)

    def _table(self) -> RenderableType:
        trials = sorted(self._state.trials.values(), key=lambda trial: trial.status != "running")[:SHOWN]
        return trial_table(
            trials, title=f"{len(self._state.over)} of {self._total} trials", num_epochs=self._num_epochs, brief=True
        )


def trial_table(trials: list[Trial], *, title: str, num_epochs: int, brief: bool = False) -> Table:
    """Return a table of trials; a brief one has a line each, and cuts values that do not fit into it."""
    cells = [
        (
            trial.name,
            trial.status,
            f"{trial.epochs}/{trial.values.get('train.num_epochs', num_epochs)}",
            figure(trial.objective, digits=5),
            *(figure(trial.best.get(name), digits=5) for name in ("val_far", "val_auroc")),
            _values(trial),
        )
        for trial in trials
    ]
    columns = ("trial", "status", "epochs", "objective", "false calls", "AUROC", "values")
    table = result_table(title, columns, cells)
    table.caption = "False calls at full recall, in %."
    if brief:
        *figures, values = table.columns
        for number, column in enumerate(figures):
            column.width = max(len(text) for text in (columns[number], *(row[number] for row in cells)))
        table.expand, values.ratio, values.no_wrap, values.overflow = True, 1, True, "ellipsis"
    return table


def _values(trial: Trial) -> str:
    return ", ".join(f"{key.rpartition('.')[2]}={setting(value)}" for key, value in trial.values.items())


def _error_of(trial: Any) -> BaseException | None:
    """Return what ended a trial; Ray Tune has written it to this machine, and not yet to the storage that it reads."""
    import pickle

    if trial.pickled_error_file is None:
        return None
    with Path(trial.pickled_error_file).open("rb") as file:
        error: BaseException = pickle.load(file)  # noqa: S301 - written by this process a moment ago
    return error
