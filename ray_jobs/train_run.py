"""One Ray Train run: what `changenet train` and every trial of `changenet tune` have in common."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from changenet import storage
from changenet.errors import DataError, Problem, SpecError
from changenet.spec import Experiment
from changenet.spec.workers import unshared_batch
from ray_jobs.checkpoint_files import latest_name
from ray_jobs.shared_storage import mark
from ray_jobs.workers import Workers

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

    from changenet.data.pairs import PairDataset, PairSource
    from ray_jobs.resume import Start

logger = logging.getLogger(__name__)


def prepare(experiment: Experiment, folder: str) -> Start:
    """Check all that a user can have got wrong, and return where the run begins.

    Args:
        experiment: The spec.
        folder: Where the run's checkpoints are.

    Raises:
        DataError: The training or validation set is wrong.
        CheckpointError: The checkpoint to go on from is missing or of another run, or weights to start from do not fit.
        SpecError: The folder's run has more epochs behind it than the spec asks for.
    """
    from changenet import factory
    from ray_jobs.resume import find_start

    sources = [factory.training_loader(experiment).source]
    if (validation := factory.validation_loader(experiment)) is None:
        _warn_of_no_validation(experiment)
    else:
        sources.append(cast("PairDataset", validation[0].dataset).source)
    _check_files(sources)
    network = factory.make_network(experiment, pretrained=False)
    start = find_start(experiment, folder, network.arguments)
    if start.checkpoint is None:
        factory.load_pretrained(network, experiment)  # the workers load it again: here it shows whether it fits
    return start


def make_trainer(
    experiment: Experiment,
    *,
    folder: str,
    checkpoint: str | None,
    workers: Workers,
    monitor: Any,
    callbacks: Sequence[Any] = (),
) -> TorchTrainer:
    """Return the trainer of a run; Ray is connected.

    Args:
        experiment: The spec.
        folder: Where the run's files go.
        checkpoint: The file to go on from, or None.
        workers: How many, with what.
        monitor: Whom they tell their progress (`ray_jobs.run_monitor`).
        callbacks: Ray Train's, called at every report.

    Raises:
        SpecError: A batch cannot be shared equally by the workers.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    from ray_jobs.restarts import Restarts
    from ray_jobs.train_worker import train_worker

    settings = experiment.train
    check_share(experiment, workers)
    # A name of its own each time: a run goes on from our checkpoint, never from a snapshot of some Ray version.
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    mark(folder, name)
    fewest, most = workers.count
    if fewest < most and not settings.ray.max_failures:
        logger.warning("train.ray.max_failures is 0: the run grows with the cluster, and ends when it loses a worker.")
    return TorchTrainer(
        train_worker,
        train_loop_config={
            "experiment": experiment,
            "name": name,
            "folder": storage.absolute(folder),
            "checkpoint": checkpoint,
            "before": latest_name(folder),
            "threads": workers.threads,
            "monitor": monitor,
            "working_dir": str(Path.cwd()),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=most if fewest == most else (fewest, most),
            use_gpu=workers.use_gpu,
            resources_per_worker={"CPU": workers.cpus, **workers.resources},
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=settings.ray.storage_path or storage.absolute(storage.join(folder, ".ray")),
            failure_config=ray.train.FailureConfig(max_failures=settings.ray.max_failures),
            callbacks=[Restarts(monitor), *callbacks],
        ),
    )


def _check_files(sources: Sequence[PairSource]) -> None:
    """Make sure that no picture is missing, before a cluster is asked for anything."""
    problems: list[Problem] = []
    for source in sources:
        try:
            source.check_files()
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)


def check_share(experiment: Experiment, workers: Workers) -> None:
    """Make sure that workers, however many there will be, get equal shares of a batch.

    Raises:
        SpecError: They cannot.
    """
    if problem := unshared_batch(experiment.batch_size("train"), *workers.count):
        raise SpecError(problem[0], where="dataset.classify.batch_size", fix=problem[1])


def _warn_of_no_validation(experiment: Experiment) -> None:
    name, _ = experiment.monitor
    effects = [] if name.startswith("train_") else [f"{name} picks no best checkpoint"]
    if experiment.train.early_stopping.enable and not name.startswith("train_"):
        effects.append("early stopping never stops")
    if experiment.threshold_policy == "recall":
        effects.append(f"the threshold is not fitted and stays at {experiment.eval_margin:g}")
    logger.warning("There is no validation set%s.", f": {' and '.join(effects)}" if effects else "")
