"""Where a training run begins: at a checkpoint that it may go on from, or at the first epoch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from changenet import factory, storage
from changenet.adoption import SpecDescribes
from changenet.agreement import adjustments, differences
from changenet.description import ModelDescription
from changenet.errors import CheckpointError, Problem, SpecError
from changenet.spec import Experiment
from changenet.spec.tree import get, show_path
from changenet.training.checkpoint import load_checkpoint
from ray_jobs.checkpoint_files import LATEST, is_checkpoint_name

logger = logging.getLogger(__name__)
LISTED = 5  # checkpoints in a message: the newest


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Args:
        checkpoint: The file to go on from; None to start anew.
        epochs: That lie behind it.
    """

    checkpoint: str | None = None
    epochs: int = 0


def find_start(experiment: Experiment, folder: str, arguments: Mapping[str, Any]) -> Start:
    """Return where the run begins: the checkpoint that the spec names, else the folder's latest, else the first epoch.

    Args:
        experiment: The spec.
        folder: RESULTS/train.
        arguments: Of the spec's network.

    Raises:
        CheckpointError: The checkpoint is not there (nor the one that the folder's link names), holds nothing to go on from, or belongs to another run: every key
            that differs; or the one that the spec names leaves nothing to train.
        SpecError: The folder's run has more epochs behind it than the spec asks for.
    """
    named, last = experiment.train.resume_training_checkpoint_path, experiment.train.num_epochs
    path = named or _latest(folder)
    if path is None:
        return Start()
    checkpoint = load_checkpoint(path, encryption_key=experiment.secret(), describe=SpecDescribes(experiment, path))
    if checkpoint.training is None:
        what, fix = "it holds weights only, nothing to go on from", "Give it as train.pretrained_model_path instead."
        raise CheckpointError(what, where=path, fix=fix)
    differing = [
        Problem(f"{key} {difference}", where=path)
        for key, difference in (
            *differences(experiment, arguments, checkpoint.description),
            *_other_rows(experiment, checkpoint.description),
        )
    ]
    if differing:
        fix = (
            "Use another results_dir to train a new network (train.pretrained_model_path starts it from these weights), or --fresh, "
            "which sets this one aside; or the spec that the checkpoint was trained with."
        )
        raise CheckpointError([Problem("this run cannot go on from it", where=path, fix=fix), *differing])
    done = int(checkpoint.training["progress"]["epoch"])
    if named and done >= last:
        raise CheckpointError(
            f"has been trained for {done} epochs and train.num_epochs is {last}: nothing is left to train",
            where=path,
            fix="To train its weights on, give it as train.pretrained_model_path; to go on with its run, raise num_epochs.",
        )
    if done > last:
        raise SpecError(
            f"is {last}, but {path} has been trained for {done} epochs",
            where="train.num_epochs",
            fix="Raise it, or start anew with --fresh.",
        )
    if done < last:
        logger.info("Going on from %s.", path)
        if changed := list(adjustments(experiment, checkpoint.description)):
            logger.warning("The rest of the run differs from its beginning: %s.", ", ".join(changed))
        if experiment.train.pretrained_model_path:
            logger.info("train.pretrained_model_path is not read: the run has its own weights.")
    return Start(storage.absolute(path), done)


def _latest(folder: str) -> str | None:
    link = storage.join(folder, LATEST)
    path = storage.resolve_latest(link)
    if path is not None and not storage.exists(path):
        left = [name for name in storage.names_inside(folder) if is_checkpoint_name(name)][-LISTED:]
        choice = f"Name another one ({', '.join(left)}) as train.resume_training_checkpoint_path, or s" if left else "S"
        what, fix = f"names {storage.file_name(path)}, which is gone", f"{choice}tart anew with --fresh."
        raise CheckpointError(what, where=link, fix=fix)
    return path


def _other_rows(experiment: Experiment, stored: ModelDescription) -> Iterator[tuple[str, str]]:
    """Yield the key of the training rows where it names another file with other ones; warn where the file has changed."""
    if not stored.data_hash or stored.data_hash == factory.training_data_hash(experiment):
        return
    key, named = (
        ("dataset", "classify", "train_dataset", "csv_path"),
        experiment.dataset.classify.train_dataset.csv_path,
    )
    before = get(stored.spec, key)
    if before in (None, named):
        logger.warning("%s has changed since the run began; the run goes on with its rows.", named)
    else:
        yield show_path(key), f"is {before!r} in the checkpoint and {named!r} in the spec, with other rows"
