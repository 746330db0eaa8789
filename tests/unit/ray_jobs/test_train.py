from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from changenet import factory
from changenet.errors import CheckpointError
from changenet.spec import load_spec
from changenet.training.checkpoint import Checkpoint, save_checkpoint
from ray_jobs import train


def finished(spec: str, path: Path, *, leave_out: str = "") -> None:
    """Write a checkpoint of a finished run of the spec, perhaps without an argument of the network."""
    experiment = load_spec(spec).experiment
    network = factory.make_network(experiment)
    description = factory.describe(experiment, network.arguments)
    description.network.pop(leave_out, None)
    path.parent.mkdir(parents=True)
    save_checkpoint(str(path), Checkpoint(description, network.state_dict(), {"progress": {"epoch": 2}}))


def test_a_checkpoint_from_before_an_argument_was_there_has_its_default(
    write_spec: Callable[..., str], tmp_path: Path
) -> None:
    spec, path = write_spec(), tmp_path / "old" / "model.pth"
    finished(spec, path, leave_out="num_golden")
    resumed = [f"train.resume_training_checkpoint_path={path}"]
    with pytest.raises(CheckpointError, match="nothing is left to train"):
        train.run(spec, resumed)
    with pytest.raises(CheckpointError, match=r"num_golden\W+is 1 in the checkpoint and 2 in the spec"):
        train.run(spec, [*resumed, "dataset.classify={num_golden: 2, image_width: 224, image_height: 224}"])
