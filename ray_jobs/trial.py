"""One trial of a sweep: a Ray Train run like that of `changenet train`, whose epochs are handed on to Ray Tune."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import ray.train
from ray import tune

from changenet import storage
from changenet.errors import ChangeNetError, DataError, RunError
from changenet.evaluation.objective import Objective
from changenet.spec import Experiment
from changenet.spec.sweep import Sweep, with_values
from ray_jobs.action import Action
from ray_jobs.curve import Curve
from ray_jobs.failures import ours
from ray_jobs.run_monitor import RunMonitor, log_to, start_monitor
from ray_jobs.shared_storage import check_here
from ray_jobs.stopping import in_background
from ray_jobs.train_run import make_trainer, prepare
from ray_jobs.workers import Workers

PERIOD = 0.2  # seconds between two looks at the monitor
STOP_WAIT = 60.0  # seconds that the workers of a trial may need to end
LOCK_WAIT = 60.0  # seconds that the processes of a killed sweep may need to end


@dataclass(frozen=True)
class TrialSetup:
    """What all trials of a sweep share.

    Args:
        experiment: The spec.
        sweep: Its sweep.
        folder: RESULTS/tune/trials.
        run: The name that marks this folder.
        objective: What is better.
        workers: Of each trial.
        monitor: Where log records go; each is shown once for all trials.
        working_dir: The folder that the spec's relative paths start from.
    """

    experiment: Experiment
    sweep: Sweep
    folder: str
    run: str
    objective: Objective
    workers: Workers
    monitor: Any
    working_dir: str

    def experiment_of(self, name: str, point: Mapping[str, Any]) -> Experiment:
        """Return the spec of one trial.

        Its threshold is fitted at each validation, whatever the spec says, and each epoch leaves a checkpoint.

        Raises:
            SpecError: The point's values do not fit together.
        """
        place = {"results_dir": storage.join(self.folder, name), "train.results_dir": None}
        kept = {"train.checkpoint_interval": 1, "train.checkpoint_interval_unit": "epoch"}
        kept |= {
            "train.checkpointer.enable_topk": False,
            "train.checkpointer.replace_periodic": False,
        }  # `Curve` prunes
        fitted = {"evaluate.threshold.policy": "recall"}
        return with_values(self.experiment, {**self.sweep.values(self.experiment, point), **place, **kept, **fitted})


class TrialMonitor(RunMonitor):
    """The monitor of one trial's workers: it keeps the figures of epochs, and hands log records on to the sweep's monitor."""

    def __init__(self, shared: Any) -> None:
        super().__init__()
        self._shared = shared
        self._epochs: list[dict[str, Any]] = []

    def log(self, name: str, level: int, message: str) -> None:
        """Hand on a log record."""
        self._shared.log.remote(name, level, message)

    def add_epoch(self, figures: dict[str, Any]) -> None:
        """Keep what the workers reported."""
        self._epochs.append(figures)

    def take_epochs(self) -> list[dict[str, Any]]:
        """Return the reports since the last call."""
        epochs, self._epochs = self._epochs, []
        return epochs


class _Relay(ray.train.UserCallback):
    """Tells the trial's monitor the figures of each report."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:  # noqa: ARG002
        if "train_loss" in metrics[0]:  # the end of an epoch, not a checkpoint on the way
            ray.get(self._monitor.add_epoch.remote(metrics[0]))


class TrialRun(tune.Trainable):
    """Trains one trial, from its own latest checkpoint if it has one, to its last epoch or until Ray Tune stops it.

    A step is an epoch (or the epochs until there is a first figure). Stopped, its workers end as they do on Ctrl-C and give
    back what they hold: a function that Ray Tune stops would leave them running, and the next trial waiting.
    """

    def setup(self, config: Mapping[str, Any], setup: TrialSetup) -> None:
        """Keep what the trial is made of; all work is left to the steps, whose errors Ray Tune hands on as they are."""
        self._point, self._setup = config, setup
        self._reports = self._train()
        self._trial_monitor: Any = None  # `_monitor` is Ray's own
        self._outcome: Future[None] | None = None

    def step(self) -> dict[str, Any]:
        """Train until there is something new to tell.

        What a spec makes impossible, such as a rate that diverges, is told and not raised: Ray Tune would try it again.
        """
        try:
            return next(self._reports)
        except ChangeNetError as error:
            return {"error": " ".join(str(error).split()), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: what a trial goes on from is in its own folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing (see `save_checkpoint`)."""

    def cleanup(self) -> None:
        """End the workers."""
        if self._outcome is not None and not self._outcome.done() and ray.get(self._trial_monitor.stop.remote()):
            with contextlib.suppress(Exception):
                self._outcome.result(timeout=STOP_WAIT)
        self._reports.close()

    def _train(self) -> Generator[dict[str, Any], None, None]:
        setup = self._setup
        with contextlib.suppress(FileNotFoundError):  # a node without that folder needs absolute paths
            os.chdir(setup.working_dir)
        try:
            check_here(setup.experiment, setup.folder, setup.run)
        except DataError as error:  # of this node, not of the trial, which the next start tries again
            raise RuntimeError(str(error)) from None
        log_to(setup.monitor)
        logging.getLogger("ray_jobs.resume").setLevel(logging.WARNING)
        experiment = setup.experiment_of(self.trial_name, self._point)
        with _entered(Action("train", experiment)) as action:
            start = prepare(experiment, action.folder)
            curve = Curve(setup.objective, action.folder)
            curve.read(start.epochs)
            if start.epochs < experiment.train.num_epochs:
                self._trial_monitor = start_monitor(TrialMonitor, setup.monitor)
                trainer = make_trainer(
                    experiment,
                    folder=action.folder,
                    checkpoint=start.checkpoint,
                    workers=setup.workers,
                    monitor=self._trial_monitor,
                    callbacks=[_Relay(self._trial_monitor)],
                )
                for figures in self._epochs(trainer):
                    curve.add(figures)
                    if curve.value is not None:
                        yield curve.facts(finished=False)
        yield {**curve.facts(finished=True), "done": True}

    def _epochs(self, trainer: Any) -> Iterator[dict[str, Any]]:
        """Train, and yield the figures of every epoch as soon as it ends."""
        self._outcome = in_background(trainer.fit)
        ended = False
        while not ended:
            ended = self._outcome.done()  # before the look: nothing comes after it
            yield from ray.get(self._trial_monitor.take_epochs.remote())
            if not ended:
                time.sleep(PERIOD)
        try:
            self._outcome.result()
        except ray.train.TrainingFailedError as error:
            raise ours(error) or error from error
        if failure := ray.get(self._trial_monitor.failure.remote()):
            raise failure


@contextlib.contextmanager
def _entered(action: Action) -> Iterator[Action]:
    """Enter an action; the processes of a sweep that was killed may hold its lock for some seconds yet."""
    deadline = time.monotonic() + LOCK_WAIT
    while True:
        try:
            action.__enter__()
            break
        except RunError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
    with contextlib.ExitStack() as stack:
        stack.push(action)
        yield action
