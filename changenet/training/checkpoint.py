"""Checkpoints: weights plus everything needed to use or continue them, readable without running any code.

A checkpoint is one `torch.save` file of plain values with a format version. Evaluation, export and serving need nothing
else: the description holds the network's arguments, the picture layout, the classes and the threshold.
"""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

from changenet import encryption
from changenet.description import ModelDescription
from changenet.errors import CheckpointError

if TYPE_CHECKING:
    from changenet.model.network import ChangeNet

FORMAT = "changenet-checkpoint"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        description: The network's arguments, layout, classes, threshold and provenance.
        state: The weights: parameter name to tensor, on the CPU.
        training: Optimiser, schedule, epoch and random state to go on from; None in a file that only serves.
    """

    description: ModelDescription
    state: dict[str, torch.Tensor]
    training: dict[str, Any] | None = None


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that shape a result."""
    versions = {}
    for package in ("changenet-ray", "torch", "torchvision", "timm", "numpy", "pillow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # a source tree on a bare GPU machine is not installed
            versions[package] = "not installed"
    return versions


def save_checkpoint(path: str, checkpoint: Checkpoint, *, encryption_key: str | None = None) -> None:
    """Write the checkpoint atomically; with a key only ciphertext ever reaches the disk."""
    with encryption.write_model(path, encryption_key) as file:
        torch.save(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "description": checkpoint.description.to_dict(),
                "state_dict": checkpoint.state,
                "training": checkpoint.training,
            },
            file,
        )


def load_checkpoint(path: str, *, encryption_key: str | None = None) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: The file is missing, not one of our checkpoints, damaged, of a newer format, or encrypted with
            another key.
    """
    content = encryption.read_model(path, encryption_key)
    try:
        values = torch.load(content, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise CheckpointError(
            "not a readable checkpoint (damaged, or it holds more than plain values)",
            where=path,
            fix="Give a file written by `changenet train`.",
        ) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(
            "not a changenet checkpoint", where=path, fix="Give a model_epoch_*.pth file written by `changenet train`."
        )
    if values["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"format version {values['format_version']} is newer than this program reads ({FORMAT_VERSION})",
            where=path,
            fix="Update changenet.",
        )
    return Checkpoint(ModelDescription.from_dict(values["description"]), values["state_dict"], values["training"])


def build_network(checkpoint: Checkpoint) -> ChangeNet:
    """Return the checkpoint's network in evaluation mode, on the CPU.

    Raises:
        CheckpointError: The weights do not fit the network that the file describes.
    """
    from changenet.model.network import ChangeNet

    network = ChangeNet(**checkpoint.description.network)
    try:
        network.load_state_dict(checkpoint.state)
    except RuntimeError as error:
        raise CheckpointError(f"its weights do not fit its own description: {error}", fix="Train it again.") from error
    return network.eval()
