"""What every Ray Train worker runs: a whole training run, to be read from top to bottom."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import replace
from typing import Any, cast

import ray.train
import ray.train.collective
import ray.train.torch
import torch
from torch import distributed

from changenet import factory, storage
from changenet.data.randomness import derived_seed
from changenet.description import Threshold
from changenet.errors import ChangeNetError
from changenet.evaluation.epoch import check_finite, judge, tao_figures
from changenet.model.network import ChangeNet
from changenet.spec import Experiment
from changenet.training.checkpoint import Checkpoint, load_checkpoint
from changenet.training.loop import Batches, EpochResult, predict, train_epoch
from changenet.training.memory import keep_freed_memory
from changenet.training.state import Progress
from ray_jobs.checkpoint_files import LATEST, CheckpointFiles, file_name
from ray_jobs.follow import log_to
from ray_jobs.stopping import Stopped, StopWatch
from ray_jobs.train_log import TrainLog

logger = logging.getLogger(__name__)

# Between two questions to Ray whether a machine is about to be taken away: all workers wait for each other then.
NOTICE_STEPS = 5


def train_worker(config: dict[str, Any]) -> None:
    """Train from a checkpoint, or from the start, to the last epoch.

    Args:
        config: `experiment` (the spec), `folder` (RESULTS/train), `checkpoint` (a file to go on from, or None),
            `before` (the name of the folder's latest checkpoint when the run began, or None), `threads` (CPU threads of
            this worker), `board` (where progress is shown) and `working_dir` (the folder that the spec's relative paths
            start from).
    """
    arguments = dict(config)
    with contextlib.suppress(FileNotFoundError, PermissionError):  # a node without that folder needs absolute paths
        os.chdir(arguments.pop("working_dir"))
    board = arguments["board"]
    if ray.get(board.failure.remote()) is not None:
        return
    try:
        _TrainingRun(**arguments).run()
    except ChangeNetError as error:
        ray.get(board.fail.remote(error))
        raise


class _TrainingRun:
    """One rank's part of a run. Rank 0 alone writes files; every rank reports equally often (Ray's barrier)."""

    def __init__(
        self,
        *,
        experiment: Experiment,
        folder: str,
        checkpoint: str | None,
        before: str | None,
        threads: int,
        board: Any,
    ) -> None:
        context = ray.train.get_context()
        self.stop_watch, self.stopping = StopWatch(board), False
        self.notice: Any = None  # of machines that go
        self.noticed = False  # at the latest step
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.experiment, self.settings, self.folder, self.board = experiment, experiment.train, folder, board
        self.device = ray.train.torch.get_device()
        if self.device.type == "cpu":
            keep_freed_memory()
        torch.set_num_threads(threads)
        factory.seed_process(experiment, rank=self.rank)

        shares = {"rank": self.rank, "world_size": self.world, "threads": threads}
        self.loader = factory.training_loader(experiment, **shares)
        self.validation = factory.validation_loader(experiment, **shares)
        checkpoint = _newest(folder, checkpoint, before=before)
        self.network = factory.make_network(experiment, pretrained=checkpoint is None).to(self.device)
        if self.rank == 0:
            log_to(board)  # only now: what there is to say about data and weights, the driver has said
        stored = None if checkpoint is None else load_checkpoint(checkpoint, encryption_key=experiment.secret())
        if stored is not None:
            self.network.load_state_dict(stored.state)
            if not stored.description.network.get("align_corners"):  # off in a run that began with TAO's weights
                self.network.force_align_corners_off()
        self.loss = factory.make_loss(experiment)
        self.stateful = factory.make_stateful(
            experiment,
            self.network,
            steps_per_epoch=-(-self.loader.batches_per_epoch // self.settings.accumulate_grad_batches),
            device=self.device,
        )
        self.progress = Progress()
        self.description = factory.describe(
            experiment, self.network.arguments, data_hash=factory.training_data_hash(experiment)
        )
        if stored is not None:
            if stored.training is not None:
                self.progress = self.stateful.restore(stored.training, self.network)
                self._after_restore()
            self.description = replace(
                self.description,
                network=self.network.arguments,
                threshold=stored.description.threshold,
                metrics=stored.description.metrics,
                validation_scores=stored.description.validation_scores,
            )
        trained: torch.nn.Module = self.network
        if self.settings.sync_batchnorm and (self.world == 1 or self.device.type == "cpu"):
            reason = "there is one worker" if self.world == 1 else "PyTorch synchronises batch statistics on GPUs only"
            logger.warning("train.sync_batchnorm has no effect: %s.", reason)
        elif self.settings.sync_batchnorm:
            trained = torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
        self.trained = ray.train.torch.prepare_model(
            trained, parallel_strategy="ddp" if self.world > 1 else None, move_to_device=False
        )
        self.log = self.files = None
        if self.rank == 0:
            self.files = CheckpointFiles(folder, experiment, first_epoch=self.progress.epoch)
            tensorboard = self.settings.tensorboard
            self.log = TrainLog(
                folder,
                first_epoch=self.progress.epoch,
                num_epochs=self.settings.num_epochs,
                tensorboard=tensorboard.enabled,
                every=tensorboard.infrequent_logging_frequency,
            )

    def _after_restore(self) -> None:
        """Fit what a checkpoint says to this rank and this run's batches."""
        progress = self.progress
        if self.rank:  # the file has the random state of rank 0, and no two ranks may drop the same paths
            torch.manual_seed(
                derived_seed("resumed process", seed=self.settings.seed, epoch=progress.step, rank=self.rank)
            )
        if progress.batch >= self.loader.batches_per_epoch:  # batches were smaller then: the epoch is run again
            progress.batch = 0

    @property
    def kept(self) -> ChangeNet:
        """The network that is validated and written: the averaged one when there is an average."""
        average = self.stateful.average
        return self.network if average is None else cast("ChangeNet", average.module)

    def run(self) -> None:
        """Run the epochs that are left."""
        if self.log is not None:
            self.log.started()
            shared = f"{self.world} workers share each batch" if self.world > 1 else "One worker trains"
            logger.info("%s, from epoch %d, step %d.", shared, self.progress.epoch + 1, self.progress.step)
        with contextlib.suppress(Stopped):
            for epoch in range(self.progress.epoch, self.settings.num_epochs):
                if self._stale or self.stopping:  # the first perhaps before this run began
                    break
                self._epoch(epoch)
        if self.log is not None and not self.stopping:
            self.log.finished()

    @property
    def _stale(self) -> bool:
        stopping = self.settings.early_stopping
        return stopping.enable and self.progress.stale >= stopping.patience

    def _epoch(self, epoch: int) -> None:
        """Train, validate, write and report one epoch."""
        began = time.perf_counter()
        learning_rate = self.stateful.schedule.get_last_lr()[0]
        mine = self._train(epoch)
        seconds = time.perf_counter() - began
        trained = self._gather(mine)
        check_finite(trained, epoch)
        figures: dict[str, Any] = {
            "epoch": epoch,
            "step": self.progress.step,
            "learning_rate": learning_rate,
            "train_loss": trained.loss,
            **tao_figures("train", trained, network=self.network, threshold=Threshold(self.experiment.eval_margin)),
            "pairs_per_second": len(trained.rows) / seconds,
        }
        last = epoch + 1 == self.settings.num_epochs
        validated = self.validation is not None and (last or (epoch + 1) % self.settings.validation_interval == 0)
        if validated:
            figures |= self._validate(epoch)
        name, mode = self.experiment.monitor
        min_delta = self.settings.early_stopping.min_delta
        best = self.progress.improves(figures.get(name), name=name, mode=mode, min_delta=min_delta)
        figures["seconds"] = time.perf_counter() - began
        self.progress.epoch, self.progress.batch = epoch + 1, 0
        if self.log is not None:
            self.log.epoch(figures, validated=validated)
            self.log.histograms(epoch, self.network)
        due = self.progress.is_due(self.settings.checkpoint_interval, self.settings.checkpoint_interval_unit)
        self._report(figures, save=due or last or self._stale or self.stopping or self.noticed, best=best)

    def _train(self, epoch: int) -> EpochResult:
        skipped = self.progress.batch
        batches: Batches = self.loader.epoch(epoch, skip=skipped)
        title = f"Training, epoch {epoch + 1} of {self.settings.num_epochs}"
        before = epoch * self.loader.batches_per_epoch
        total = self.settings.num_epochs * self.loader.batches_per_epoch
        every = self.settings.checkpoint_interval
        by_step = self.settings.checkpoint_interval_unit == "step"

        def after_batch(number: int, stepped: bool) -> None:
            self.progress.batch = skipped + number + 1
            if self.rank == 0:
                self.board.show.remote(title, before + self.progress.batch, total)
            if not stepped:
                return
            self.progress.step += 1
            if self.stateful.average is not None:
                self.stateful.average.update_parameters(self.network)
            self.stopping = self.stop_watch.stops_after(self.progress.step) or self.stopping
            unfinished = self.progress.batch < self.loader.batches_per_epoch  # the epoch's end writes its own
            self.noticed = self._is_going()
            due = self.noticed or (by_step and self.progress.step % every == 0)
            if unfinished and (self.stopping or due):
                self._report({"epoch": epoch, "step": self.progress.step}, save=True, best=False)
                if self.stopping:
                    raise Stopped

        if self.log is not None:
            batches = self.log.watch(epoch, batches)
        return train_epoch(
            self.trained,
            batches,
            normalise=self.network.normalise,
            loss=self.loss,
            optimizer=self.stateful.optimizer,
            schedule=self.stateful.schedule,
            scaler=self.stateful.scaler,
            device=self.device,
            precision=self.settings.precision,
            accumulate=self.settings.accumulate_grad_batches,
            clip_norm=self.settings.clip_grad_norm,
            after_batch=after_batch,
        )

    def _is_going(self) -> bool:
        """Say, once a notice, whether a machine of this run is about to be taken away (spot machines, drained nodes)."""
        if self.progress.step % NOTICE_STEPS:
            return False
        before, self.notice = self.notice, ray.train.get_preemption_info()
        if self.notice is None or self.notice == before:
            return False
        logger.warning("A machine is about to be taken away: a checkpoint is written.")
        return True

    def _validate(self, epoch: int) -> dict[str, Any]:
        """Score the validation set, fit the threshold, and note both in the description that checkpoints carry.

        In full precision, whatever training uses: the threshold is for scores as engines will compute them.
        """
        assert self.validation is not None
        loader, labels = self.validation
        if self.world > 1:  # each rank has seen other batches: what is judged must be what rank 0 writes
            for buffer in self.kept.buffers():
                distributed.broadcast(buffer, 0)
        result = self._gather(predict(self.kept, loader, normalise=self.kept.normalise, device=self.device))
        check_finite(result, epoch)
        judgement = judge(
            result,
            network=self.kept,
            loss=self.loss,
            labels=labels.tolist(),
            classes=self.experiment.classes,
            policy=self.experiment.threshold_policy,
            target=self.experiment.threshold_target,
            margin=self.experiment.eval_margin,
        )
        self.description = replace(
            self.description,
            threshold=judgement.threshold,
            metrics=judgement.metrics,
            validation_scores=judgement.histogram,
        )
        return judgement.figures

    def _gather(self, mine: EpochResult) -> EpochResult:
        """Return the rows of all ranks, in row order, and the mean of their losses, on every rank."""
        if self.world == 1:
            return mine
        parts: list[EpochResult] = [mine] * self.world
        distributed.all_gather_object(parts, mine)
        return EpochResult.merged(parts)

    def _report(self, figures: dict[str, Any], *, save: bool, best: bool) -> None:
        """Write the checkpoint (rank 0) and tell Ray where it is; all ranks meet here."""
        metrics = {name: value for name, value in figures.items() if value is not None}
        latest = None
        if self.files is not None and (save or best or self.files.is_ranked(metrics)):
            training = self.stateful.capture(self.progress, self.network)
            checkpoint = Checkpoint(self.description, self.kept.state_dict(), training)
            latest = self.files.write(checkpoint, metrics, periodic=save, best=best)
        # The files stay where users look for them, so Ray gets no copies: it needs none to start the workers again.
        ray.train.report(metrics if latest is None else {**metrics, "checkpoint_path": latest})


def _newest(folder: str, checkpoint: str | None, *, before: str | None) -> str | None:
    """Return what to go on from: after a failure Ray starts the workers again, and they have written something newer.

    All workers take what rank 0 sees, so that a slow network folder cannot make them differ.
    """
    latest = storage.resolve_latest(storage.join(folder, LATEST))
    chosen: str | None = ray.train.collective.broadcast_from_rank_zero(
        checkpoint if latest is None or file_name(latest) == before else latest
    )
    return chosen
