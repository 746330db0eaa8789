"""Checkpoints: weights plus everything needed to use or continue them, readable without running any code.

A checkpoint is one `torch.save` file of plain values with a format version. Evaluation, export and serving need nothing
else: the description holds the network's arguments, the picture layout, the classes and the threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from changenet import encryption
from changenet.description import ModelDescription
from changenet.errors import CheckpointError
from changenet.model.weight_files import read_pickled

if TYPE_CHECKING:
    from changenet.model.network import ChangeNet
    from changenet.model.tao_file import TaoCheckpoint

FORMAT = "changenet-checkpoint"
QUANTIZED_FORMAT = "changenet-quantized"
FORMAT_VERSION = 1

Describe: TypeAlias = Callable[["TaoCheckpoint"], ModelDescription]


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        description: The network's arguments, layout, classes, threshold and provenance.
        state: The weights: parameter name to tensor, on the CPU.
        training: Optimiser, schedule and place in the run to go on from; None in a file that only serves.
        path: The file that it was read from, for messages.
    """

    description: ModelDescription
    state: dict[str, torch.Tensor]
    training: dict[str, Any] | None = None
    path: str = ""


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that shape a result."""
    versions = {}
    for package in ("changenet-ray", "torch", "torchvision", "timm", "numpy", "pillow"):
        try:
            versions[package] = version_of(package)
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


def load_checkpoint(path: str, *, encryption_key: str | None = None, describe: Describe | None = None) -> Checkpoint:
    """Read a checkpoint onto the CPU: one of ours, or one of TAO's where somebody says what network it holds.

    Args:
        path: File or URI; what it is shows by its content.
        encryption_key: Opens files of ours that are encrypted.
        describe: Describes a TAO checkpoint, which does not describe itself. Ours never need it.

    Raises:
        CheckpointError: The file is missing, no such checkpoint, damaged, of a newer format, encrypted with another key,
            or a TAO checkpoint that nobody describes or whose tensors do not fit the network described.
        SpecError: What `describe` raises.
    """
    return checkpoint_from(read_pickled(encryption.read_model(path, encryption_key), where=path), path, describe)


def checkpoint_from(values: Any, path: str, describe: Describe | None = None) -> Checkpoint:
    """Return the checkpoint that a file's content is (arguments and errors as `load_checkpoint`)."""
    if isinstance(values, dict) and values.get("format") == QUANTIZED_FORMAT:
        what = "is a quantized checkpoint, which can be scored with and exported, but not trained or quantized again"
        raise CheckpointError(what, where=path, fix="Name the checkpoint that it was made from.")
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        return _from_tao(values, path, describe)
    version = values.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"format version {version} is newer than this program reads ({FORMAT_VERSION})",
            where=path,
            fix="Update changenet.",
        )
    try:
        description = ModelDescription.from_dict(values["description"])
        return Checkpoint(description, values["state_dict"], values["training"], path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            "is damaged: its description cannot be read", where=path, fix="Train it again."
        ) from error


def _from_tao(values: Any, path: str, describe: Describe | None) -> Checkpoint:
    from changenet.model.tao_file import recognise

    tao = recognise(values, where=path)
    if tao is None:
        what = "neither a changenet checkpoint nor one of TAO's Visual ChangeNet"
        raise CheckpointError(what, where=path, fix="Give a model_epoch_*.pth file of either.")
    if describe is None:
        raise CheckpointError(
            "is a checkpoint of TAO, which does not say how its network is built",
            where=path,
            fix=f"Run: changenet convert --from {path} -e SPEC --to OURS.pth",
        )
    return adopt_tao(tao, describe(tao), where=path)


def adopt_tao(tao: TaoCheckpoint, description: ModelDescription, *, where: str) -> Checkpoint:
    """Return the checkpoint of ours that a TAO checkpoint becomes with a description.

    Args:
        tao: The checkpoint.
        description: Of its network; `align_corners` is forced off, as TAO has it.
        where: File name for messages.

    Raises:
        CheckpointError: Its tensors are not those of the network described: missing, left over, of another shape.
    """
    from changenet.model.network import ChangeNet
    from changenet.model.tao_checkpoint import load_tao_state

    network = ChangeNet(**description.network)
    load_tao_state(network, tao.tensors, where=where)
    described = replace(description, network=network.arguments, versions=tao.versions)
    return Checkpoint(described, network.state_dict(), path=where)


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
        what = f"its weights do not fit its own description: {error}"
        raise CheckpointError(what, where=checkpoint.path, fix="Train it again.") from error
    return network.eval()
