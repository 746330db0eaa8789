"""What one rank of a training run works with: its share of the data, the network, and all state, new or from a checkpoint."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, cast

import ray.train
import ray.train.collective
import ray.train.torch
import torch
from torch import distributed

from changenet import factory, storage
from changenet.model.network import ChangeNet
from changenet.spec import Experiment
from changenet.training.batchnorm import synchronised
from changenet.training.checkpoint import load_checkpoint
from changenet.training.loop import EpochResult
from changenet.training.memory import keep_freed_memory
from changenet.training.precision import usable_precision
from changenet.training.state import Progress
from ray_jobs.checkpoint_files import LATEST
from ray_jobs.run_monitor import log_to

logger = logging.getLogger(__name__)


class Learner:
    """One rank's network and what belongs to it.

    Args:
        experiment: The spec.
        folder: RESULTS/train.
        checkpoint: A file to go on from, or None.
        before: The name of the folder's latest checkpoint when the run began, or None.
        threads: CPU threads of this worker.
        monitor: Where rank 0 puts its log records.
    """

    def __init__(
        self,
        *,
        experiment: Experiment,
        folder: str,
        checkpoint: str | None,
        before: str | None,
        threads: int,
        monitor: Any,
    ) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self._settings = experiment.train
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
            log_to(monitor)  # only now: what there is to say about data and weights, the driver has said
        asked = experiment.train.precision
        self.precision = usable_precision(asked, self.device)
        if self.precision != asked and self.rank == 0:
            logger.warning("This processor has no instructions for %s: training in %s.", asked, self.precision)
        stored = None if checkpoint is None else load_checkpoint(checkpoint, encryption_key=experiment.secret())
        if stored is not None:
            self.network.load_state_dict(stored.state)
            if not stored.description.network.get("align_corners"):  # off in a run that began with TAO's weights
                self.network.force_align_corners_off()
        self.loss = factory.make_loss(experiment)
        self.stateful = factory.make_stateful(
            experiment,
            self.network,
            steps_per_epoch=-(-self.loader.batches_per_epoch // self._settings.accumulate_grad_batches),
            device=self.device,
        )
        self.progress = Progress()
        self.description = factory.describe(
            experiment, self.network.arguments, data_hash=factory.training_data_hash(experiment)
        )
        if stored is not None:
            if stored.training is not None:
                self.progress = self.stateful.restore(stored.training, self.network)
                if self.progress.batch >= self.loader.batches_per_epoch:  # batches were smaller then
                    self.progress.batch = 0  # the epoch is run again
            self.description = replace(
                self.description,
                network=self.network.arguments,
                threshold=stored.description.threshold,
                metrics=stored.description.metrics,
                validation_scores=stored.description.validation_scores,
            )
        trained: torch.nn.Module = self.network
        if self._settings.sync_batchnorm and (self.world == 1 or self.device.type == "cpu"):
            reason = "there is one worker" if self.world == 1 else "PyTorch synchronises batch statistics on GPUs only"
            logger.warning("train.sync_batchnorm has no effect: %s.", reason)
        elif self._settings.sync_batchnorm:
            trained = synchronised(self.network)
        self.trained = ray.train.torch.prepare_model(
            trained, parallel_strategy="ddp" if self.world > 1 else None, move_to_device=False
        )

    @property
    def kept(self) -> ChangeNet:
        """The network that is validated and written: the averaged one when there is an average."""
        average = self.stateful.average
        return self.network if average is None else cast("ChangeNet", average.module)

    def gather(self, mine: EpochResult) -> EpochResult:
        """Return the rows of all ranks, in row order, on every rank."""
        if self.world == 1:
            return mine
        parts: list[EpochResult] = [mine] * self.world
        distributed.all_gather_object(parts, mine)
        return EpochResult.merged(parts)


def _newest(folder: str, checkpoint: str | None, *, before: str | None) -> str | None:
    """Return what to go on from: after a failure Ray starts the workers again, and they have written something newer.

    All workers take what rank 0 sees, so that a slow network folder cannot make them differ.
    """
    latest = storage.resolve_latest(storage.join(folder, LATEST))
    chosen: str | None = ray.train.collective.broadcast_from_rank_zero(
        checkpoint if latest is None or storage.file_name(latest) == before else latest
    )
    return chosen
