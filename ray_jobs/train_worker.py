"""What every Ray Train worker runs: a whole training run, to be read from top to bottom."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import replace
from typing import Any

import ray.train
import torch
from torch import distributed

from changenet.data.randomness import derived_seed
from changenet.description import Threshold
from changenet.errors import ChangeNetError
from changenet.evaluation.epoch import check_finite, judge, tao_figures
from changenet.spec import Experiment
from changenet.training.checkpoint import Checkpoint
from changenet.training.loop import Batches, EpochResult, predict, train_epoch
from ray_jobs.checkpoint_files import CheckpointFiles
from ray_jobs.learner import Learner
from ray_jobs.shared_storage import check_here
from ray_jobs.stopping import Stopped, StopWatch
from ray_jobs.train_log import TrainLog

logger = logging.getLogger(__name__)

# Steps, or batches of validation, between two questions to Ray whether a machine is about to be taken away: all workers
# wait for each other then.
NOTICE_STEPS = 5


def train_worker(config: dict[str, Any]) -> None:
    """Train from a checkpoint, or from the start, to the last epoch.

    Args:
        config: `experiment` (the spec), `name` (of the run, which marks its folder), `folder` (RESULTS/train),
            `checkpoint` (a file to go on from, or None), `before` (the name of the folder's latest checkpoint when the run
            began, or None), `threads` (CPU threads of this worker), `monitor` (where progress is shown) and `working_dir`
            (the folder that the spec's relative paths start from).
    """
    arguments = dict(config)
    with contextlib.suppress(FileNotFoundError, PermissionError):  # a node without that folder needs absolute paths
        os.chdir(arguments.pop("working_dir"))
    monitor = arguments["monitor"]
    if ray.get(monitor.failure.remote()) is not None:
        return
    try:
        check_here(arguments["experiment"], arguments["folder"], arguments.pop("name"))
        _TrainingRun(**arguments).run()
    except ChangeNetError as error:
        ray.get(monitor.fail.remote(error))
        raise


class _TrainingRun:
    """One rank's part of a run. Rank 0 alone writes files; every rank reports equally often (Ray's barrier)."""

    def __init__(self, *, experiment: Experiment, folder: str, monitor: Any, **start: Any) -> None:
        self.stop_watch, self.stopping = StopWatch(monitor), False
        self.notice: Any = None  # of machines that go
        self.noticed = False  # at the latest step, or in the validation after it
        self.experiment, self.settings, self.monitor = experiment, experiment.train, monitor
        self.own = Learner(experiment=experiment, folder=folder, monitor=monitor, **start)
        self.log = self.files = None
        if self.own.rank == 0:
            self.files = CheckpointFiles(folder, experiment, first_epoch=self.own.progress.epoch)
            tensorboard = self.settings.tensorboard
            self.log = TrainLog(
                folder,
                first_epoch=self.own.progress.epoch,
                num_epochs=self.settings.num_epochs,
                tensorboard=tensorboard.enabled,
                every=tensorboard.infrequent_logging_frequency,
            )

    def run(self) -> None:
        """Run the epochs that are left."""
        if self.log is not None:
            self.log.started()
            shared = f"{self.own.world} workers share each batch" if self.own.world > 1 else "One worker trains"
            logger.info("%s, from epoch %d, step %d.", shared, self.own.progress.epoch + 1, self.own.progress.step)
        with contextlib.suppress(Stopped):
            for epoch in range(self.own.progress.epoch, self.settings.num_epochs):
                if self._stale or self.stopping:  # the first perhaps before this run began
                    break
                self._epoch(epoch)
        if self.log is not None and not self.stopping:
            self.log.finished()

    @property
    def _stale(self) -> bool:
        stopping = self.settings.early_stopping
        return stopping.enable and self.own.progress.stale >= stopping.patience

    def _epoch(self, epoch: int) -> None:
        """Train, validate, write and report one epoch."""
        began = time.perf_counter()
        figures = dict(self.own.progress.trained or self._train(epoch))
        last = epoch + 1 == self.settings.num_epochs
        validated = self.own.validation is not None and (last or (epoch + 1) % self.settings.validation_interval == 0)
        if validated:
            self.own.progress.trained = dict(figures)
            if self.noticed:
                self._save(epoch)
            figures |= self._validate(epoch)
        name, mode = self.experiment.monitor
        min_delta = self.settings.early_stopping.min_delta
        best = self.own.progress.improves(figures.get(name), name=name, mode=mode, min_delta=min_delta)
        figures["seconds"] = time.perf_counter() - began
        self.own.progress.epoch, self.own.progress.batch, self.own.progress.trained = epoch + 1, 0, {}
        if self.log is not None:
            self.log.epoch(figures, validated=validated)
            self.log.histograms(epoch, self.own.network)
        due = self.own.progress.is_due(self.settings.checkpoint_interval, self.settings.checkpoint_interval_unit)
        self._report(figures, save=due or last or self._stale or self.stopping or self.noticed, best=best)

    def _train(self, epoch: int) -> dict[str, Any]:
        """Train on what is left of an epoch, and return its figures."""
        began = time.perf_counter()
        learning_rate = self.own.stateful.schedule.get_last_lr()[0]
        mine = self._batches(epoch)
        seconds = time.perf_counter() - began
        trained = self.own.gather(mine)
        check_finite(trained, epoch)
        return {
            "epoch": epoch,
            "step": self.own.progress.step,
            "learning_rate": learning_rate,
            "train_loss": float(self.own.loss(trained.output, trained.target)),
            **tao_figures("train", trained, network=self.own.network, threshold=Threshold(self.experiment.eval_margin)),
            "pairs_per_second": len(trained.rows) / seconds,
        }

    def _batches(self, epoch: int) -> EpochResult:
        skipped = self.own.progress.batch
        batches: Batches = self.own.loader.epoch(epoch, skip=skipped)
        title = f"Training, epoch {epoch + 1} of {self.settings.num_epochs}"
        before = epoch * self.own.loader.batches_per_epoch
        total = self.settings.num_epochs * self.own.loader.batches_per_epoch
        every = self.settings.checkpoint_interval
        by_step = self.settings.checkpoint_interval_unit == "step"

        def before_batch(number: int) -> None:
            # Depends on nothing that came before, so that a run which goes on drops the same paths as one that never stopped.
            place = {"epoch": epoch, "rank": self.own.rank, "batch": skipped + number}
            torch.manual_seed(derived_seed("training batch", seed=self.settings.seed, **place))

        def after_batch(number: int, stepped: bool) -> None:
            self.own.progress.batch = skipped + number + 1
            if self.own.rank == 0:
                self.monitor.show.remote(title, before + self.own.progress.batch, total)
            if not stepped:
                return
            self.own.progress.step += 1
            if self.own.stateful.average is not None:
                self.own.stateful.average.update_parameters(self.own.network)
            self.stopping = self.stop_watch.stops_after(self.own.progress.step) or self.stopping
            unfinished = self.own.progress.batch < self.own.loader.batches_per_epoch  # the epoch's end writes its own
            self.noticed = self.own.progress.step % NOTICE_STEPS == 0 and self._is_going()
            due = self.noticed or (by_step and self.own.progress.step % every == 0)
            if unfinished and (self.stopping or due):
                self._save(epoch)
                if self.stopping:
                    raise Stopped

        if self.log is not None:
            batches = self.log.watch(epoch, batches)
        return train_epoch(
            self.own.trained,
            batches,
            normalise=self.own.network.normalise,
            loss=self.own.loss,
            optimizer=self.own.stateful.optimizer,
            schedule=self.own.stateful.schedule,
            scaler=self.own.stateful.scaler,
            device=self.own.device,
            precision=self.own.precision,
            accumulate=self.settings.accumulate_grad_batches,
            clip_norm=self.settings.clip_grad_norm,
            before_batch=before_batch,
            after_batch=after_batch,
        )

    def _is_going(self) -> bool:
        """Say, once a notice, whether a machine of this run is about to be taken away (spot machines, drained nodes)."""
        before, self.notice = self.notice, ray.train.get_preemption_info()
        if self.notice is None or self.notice == before:
            return False
        logger.warning("A machine is about to be taken away: a checkpoint is written.")
        return True

    def _validate(self, epoch: int) -> dict[str, Any]:
        """Score the validation set, fit the threshold, and note both in the description that checkpoints carry.

        In full precision, whatever training uses: the threshold is for scores as engines will compute them.
        """
        assert self.own.validation is not None
        loader, labels = self.own.validation
        if self.own.world > 1:  # each rank has seen other batches: what is judged must be what rank 0 writes
            for buffer in self.own.kept.buffers():
                distributed.broadcast(buffer, 0)
        # Ranks differ by one batch at most; all of them ask about machines that go equally often.
        fewest = -(-len(labels) // self.experiment.batch_size("evaluate")) // self.own.world

        def after_batch(number: int) -> None:
            done = number + 1
            if done % NOTICE_STEPS == 0 and done <= fewest and self._is_going():
                self.noticed = True
                self._save(epoch)

        mine = predict(
            self.own.kept, loader, normalise=self.own.kept.normalise, device=self.own.device, after_batch=after_batch
        )
        result = self.own.gather(mine)
        check_finite(result, epoch)
        judgement = judge(
            result,
            network=self.own.kept,
            loss=self.own.loss,
            labels=labels.tolist(),
            classes=self.experiment.classes,
            policy=self.experiment.threshold_policy,
            target=self.experiment.threshold_target,
            margin=self.experiment.eval_margin,
        )
        self.own.description = replace(
            self.own.description,
            threshold=judgement.threshold,
            metrics=judgement.metrics,
            validation_scores=judgement.histogram,
        )
        return judgement.figures

    def _save(self, epoch: int) -> None:
        """Write where the run is within an epoch."""
        self._report({"epoch": epoch, "step": self.own.progress.step}, save=True, best=False)

    def _report(self, figures: dict[str, Any], *, save: bool, best: bool) -> None:
        """Write the checkpoint (rank 0) and tell Ray where it is; all ranks meet here."""
        metrics = {name: value for name, value in figures.items() if value is not None}
        latest = None
        if self.files is not None and (save or best or self.files.is_ranked(metrics)):
            training = self.own.stateful.capture(self.own.progress, self.own.network)
            checkpoint = Checkpoint(self.own.description, self.own.kept.state_dict(), training)
            latest = self.files.write(checkpoint, metrics, periodic=save, best=best)
        # The files stay where users look for them, so Ray gets no copies: it needs none to start the workers again.
        ray.train.report(metrics if latest is None else {**metrics, "checkpoint_path": latest})
