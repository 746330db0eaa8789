"""`changenet train`: the driver of a Ray Train run."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

from changenet import storage
from changenet.spec import Experiment
from ray_jobs import cluster
from ray_jobs.action import Action
from ray_jobs.console import figure, out, result_table
from ray_jobs.failures import ours
from ray_jobs.metrics_csv import read_epochs
from ray_jobs.run_monitor import follow
from ray_jobs.shared_storage import check_shared
from ray_jobs.stopping import run_until_interrupted
from ray_jobs.train_run import make_trainer, prepare
from ray_jobs.workers import plan_workers

logger = logging.getLogger(__name__)


def run(spec: str, overrides: Sequence[str] = (), *, address: str | None = None, fresh: bool = False) -> int:
    """Train as the spec says, going on from the folder's latest checkpoint; `fresh` sets an earlier run aside.

    Raises:
        SpecError: The spec is wrong.
        DataError: The training or validation set is wrong.
        CheckpointError: The checkpoint to go on from is missing or of another run, or weights to start from do not fit.
    """
    with Action.load("train", spec, overrides, fresh=fresh) as action:
        # Everything a user can have got wrong is found here, before a cluster is asked for anything.
        experiment = with_seed(action.experiment)
        start = prepare(experiment, action.folder)
        if start.epochs < experiment.train.num_epochs:
            cluster.connect(address)
            check_shared(experiment, ("train", "validation"), read={}, written={"results_dir": action.folder})
            _fit(experiment, action, start.checkpoint)
        else:
            logger.warning(
                "%s has been trained for %d epochs already: nothing to do. Raise train.num_epochs, or start anew with --fresh.",
                start.checkpoint,
                start.epochs,
            )
    _print_result(action.folder)
    return 0


def _fit(experiment: Experiment, action: Action, checkpoint: str | None) -> None:
    import ray
    import ray.train

    workers = plan_workers(experiment.train.ray, asked_gpus=experiment.num_gpus("train") * experiment.train.num_nodes)
    with follow("Starting workers") as monitor:
        trainer = make_trainer(
            experiment, folder=action.folder, checkpoint=checkpoint, workers=workers, monitor=monitor
        )
        try:
            run_until_interrupted(trainer.fit, monitor)
        except ray.train.TrainingFailedError as error:
            raise ours(error) or error from error
        if failure := ray.get(monitor.failure.remote()):
            raise failure


def with_seed(experiment: Experiment) -> Experiment:
    """Return the spec with a seed that all workers share: a negative one asks for a different draw each run."""
    if experiment.train.seed >= 0:
        return experiment
    train = experiment.train.model_copy(update={"seed": random.SystemRandom().randrange(2**31)})
    return experiment.model_copy(update={"train": train})


def _print_result(folder: str) -> None:
    if not (rows := read_epochs(folder)):
        return
    shown = ("epoch", "train_loss", "val_loss", "val_acc", "val_far", "val_auroc", "seconds")
    cells = [[f"{row['epoch']:.0f}", *(figure(row.get(name), digits=4) for name in shown[1:])] for row in rows[-5:]]
    out.print(result_table("Training, the last epochs", shown, cells))
    from ray_jobs.checkpoint_files import BEST, LATEST

    names = [LATEST] + [BEST] * storage.exists(storage.join(folder, BEST))
    out.print(f"Checkpoints: {folder} ({', '.join(names)})", soft_wrap=True)
