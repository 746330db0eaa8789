"""`changenet train`: the driver of a Ray Train run."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from changenet import storage
from changenet.errors import ChangeNetError, DataError, Problem, SpecError
from changenet.spec import Experiment
from ray_jobs import cluster
from ray_jobs.action import Action
from ray_jobs.console import out, result_table
from ray_jobs.follow import follow
from ray_jobs.stopping import run_until_interrupted
from ray_jobs.workers import plan_workers

if TYPE_CHECKING:
    from changenet.data.pairs import PairDataset, PairSource

logger = logging.getLogger(__name__)


def run(spec: str, overrides: Sequence[str] = (), *, address: str | None = None) -> int:
    """Train as the spec says, going on from the folder's latest checkpoint.

    Raises:
        SpecError: The spec is wrong.
        DataError: The training or validation set is wrong.
        CheckpointError: The checkpoint to go on from is missing or of another run, or weights to start from do not fit.
    """
    with Action.load("train", spec, overrides) as action:
        # Everything a user can have got wrong is found here, before a cluster is asked for anything.
        from changenet import factory
        from ray_jobs.resume import find_start

        experiment = _with_seed(action.experiment)
        sources = [factory.training_loader(experiment).source]
        if (validation := factory.validation_loader(experiment)) is None:
            _warn_of_no_validation(experiment)
        else:
            sources.append(cast("PairDataset", validation[0].dataset).source)
        _check_files(sources)
        network = factory.make_network(experiment, pretrained=False)
        start = find_start(experiment, action.folder, network.arguments)
        if start.checkpoint is None:
            factory.load_pretrained(network, experiment)  # the workers load it again: here it shows whether it fits
        del network
        if start.epochs < experiment.train.num_epochs:
            cluster.connect(address)
            _fit(experiment, action, start.checkpoint)
        else:
            logger.warning(
                "%s has been trained for %d epochs already: nothing to do. Raise train.num_epochs, or use another results_dir.",
                start.checkpoint,
                start.epochs,
            )
    _print_result(action.folder)
    return 0


def _fit(experiment: Experiment, action: Action, checkpoint: str | None) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer

    from ray_jobs.train_worker import train_worker

    settings = experiment.train
    workers = plan_workers(settings.ray, asked_gpus=experiment.num_gpus("train") * settings.num_nodes)
    _check_share(experiment, workers.count[1])
    scaling = ray.train.ScalingConfig(
        num_workers=workers.count[1],
        use_gpu=workers.use_gpu,
        resources_per_worker={"CPU": workers.cpus, **workers.resources},
    )
    run_config = ray.train.RunConfig(
        # A name of its own each time: a run goes on from our checkpoint, never from a snapshot of some Ray version.
        name=time.strftime("%Y%m%d-%H%M%S"),
        storage_path=settings.ray.storage_path or storage.absolute(action.path(".ray")),
        failure_config=ray.train.FailureConfig(max_failures=settings.ray.max_failures),
    )
    with follow("Starting workers") as board:
        config = {
            "experiment": experiment,
            "folder": storage.absolute(action.folder),
            "checkpoint": checkpoint,
            "threads": workers.threads,
            "board": board,
            "working_dir": str(Path.cwd()),
        }
        trainer = TorchTrainer(train_worker, train_loop_config=config, scaling_config=scaling, run_config=run_config)
        try:
            run_until_interrupted(trainer.fit, board)
        except ray.train.TrainingFailedError as error:
            raise _cause(error) from error


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


def _check_share(experiment: Experiment, workers: int) -> None:
    """Make sure that every worker gets an equal share of a batch; how many there are shows on the cluster only."""
    batch = experiment.batch_size("train")
    if batch % workers or batch < 2 * workers:
        raise SpecError(
            f"is {batch}, which cannot be shared by the {workers} workers here: it counts the pairs of all of them together",
            where="dataset.classify.batch_size",
            fix=f"Use a multiple of {workers}, at least {2 * workers}, or set train.ray.num_workers.",
        )


def _cause(error: BaseException) -> BaseException:
    """Return the error of ours that made the workers fail, or the error itself."""
    for failure in getattr(error, "worker_failures", {}).values():
        inner: BaseException | None = failure
        while inner is not None:
            if isinstance(inner, ChangeNetError):
                return inner
            inner = getattr(inner, "cause", None) or inner.__cause__
    return error


def _with_seed(experiment: Experiment) -> Experiment:
    """Return the spec with a seed that all workers share: a negative one asks for a different draw each run."""
    if experiment.train.seed >= 0:
        return experiment
    train = experiment.train.model_copy(update={"seed": random.SystemRandom().randrange(2**31)})
    return experiment.model_copy(update={"train": train})


def _warn_of_no_validation(experiment: Experiment) -> None:
    name, _ = experiment.monitor
    effects = [] if name.startswith("train_") else [f"{name} picks no best checkpoint"]
    if experiment.train.early_stopping.enable and not name.startswith("train_"):
        effects.append("early stopping never stops")
    if experiment.threshold_policy == "recall":
        effects.append(f"the threshold is not fitted and stays at {experiment.eval_margin:g}")
    logger.warning("There is no validation set%s.", f": {' and '.join(effects)}" if effects else "")


def _print_result(folder: str) -> None:
    import csv
    import io

    metrics = storage.join(folder, "metrics.csv")
    if not storage.exists(metrics):
        return
    rows = list(csv.DictReader(io.StringIO(storage.read_text(metrics))))
    shown = ("epoch", "train_loss", "val_loss", "val_acc", "val_far", "val_auroc", "seconds")
    cells = [
        [row["epoch"], *(f"{float(row[name]):.4g}" if row[name] else "" for name in shown[1:])] for row in rows[-5:]
    ]
    out.print(result_table("Training, the last epochs", shown, cells))
    from ray_jobs.train_worker import BEST, LATEST

    names = [LATEST] + [BEST] * storage.exists(storage.join(folder, BEST))
    out.print(f"Checkpoints: {folder} ({', '.join(names)})", soft_wrap=True)
