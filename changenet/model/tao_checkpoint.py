"""Loads TAO's Visual ChangeNet checkpoints into our network: nothing missing, nothing left over."""

from __future__ import annotations

import logging
import math
import re

import torch
from torch import Tensor

from changenet.errors import CheckpointError
from changenet.model.network import ChangeNet
from changenet.model.tao_settings import differing_settings
from changenet.model.weight_files import load_exactly

logger = logging.getLogger(__name__)

TAO_TAG = "visual_changenet_classify"
_PREFIXES = (
    "module.",
    "model.",
)  # of a module that several GPUs share, and of the network inside TAO's training module
LOSS_WEIGHTS = "criterion.weight"
_FINEST = 4  # TAO numbers levels 1-4 from the finest, we 0-3 from the coarsest: ours = 4 - TAO's
_PROJECTION = re.compile(r"^linear_c([1-4])\.proj\.(weight|bias)$")
_DIFFERENCE = re.compile(r"^diff_c([1-4])\.([023])\.(.+)$")
_POSITION = re.compile(r"^position_embedding_c([1-4])$")
_ATTENTION = re.compile(r"^attn_c([1-4])\.W_([qkvo])\.(weight|bias)$")
_ATTENTION_PARTS = {"q": "query", "k": "key", "v": "value", "o": "output"}
_SCALING = re.compile(r"^attn_c([1-4])\.scaling$")
_GOLDEN_NORM = re.compile(r"^bn([1-4])\.(.+)$")
_DIFFERENCE_PARTS = {"0": "test_half", "2": "norm", "3": "mix"}


def is_tao_state(tensors: dict[str, Tensor]) -> bool:
    """Say whether these are tensor names of a TAO Visual ChangeNet for classification (with or without prefixes)."""
    names = [inner_name(name) for name in tensors]
    return any(name.startswith("backbone.") for name in names) and any(
        name.startswith(("decoder.classifier.", "fc1.")) for name in names
    )


def inner_name(name: str) -> str:
    """Return a tensor's name inside TAO's network.

    >>> inner_name("module.model.fc1.0.bias")
    'fc1.0.bias'
    """
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def strip_training_module(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop what belongs to TAO's training module: prefixes and the weights of the loss.

    >>> list(strip_training_module({"model.fc1.0.bias": Tensor(), "criterion.weight": Tensor()}))
    ['fc1.0.bias']
    """
    names = {name: inner_name(name) for name in tensors}
    return {names[name]: tensor for name, tensor in tensors.items() if names[name] != LOSS_WEIGHTS}


def load_tao_state(network: ChangeNet, state: dict[str, Tensor], *, where: str = "TAO checkpoint") -> None:
    """Load the tensors of a TAO checkpoint into a network of the same settings.

    TAO ignores `align_corners`; a network that asks for it is told to do likewise.

    Args:
        network: Built with the settings that TAO trained with.
        state: Names as inside TAO's network (`strip_training_module`).
        where: File name for messages.

    Raises:
        CheckpointError: Tensors are missing, left over or of another shape; what they show about the settings comes first.
    """
    encoder = {name.removeprefix("backbone."): each for name, each in state.items() if name.startswith("backbone.")}
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("backbone.")}
    named = {f"backbone.{name}": tensor for name, tensor in network.backbone.weight_names(encoder).items()}
    try:
        load_exactly(
            network,
            {**named, **_comparison_names(rest)},
            where=where,
            fix="Backbone, difference_module, embed_dim, embed_dec, image size and lights must be those of the training.",
        )
    except CheckpointError as error:
        raise CheckpointError([*differing_settings(network.arguments, state, where=where), *error.problems]) from error
    if network.force_align_corners_off():
        logger.warning("%s: align_corners is off for this network, as in TAO, which ignores the setting", where)


def _comparison_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return decoder and head under our names; unknown names stay as they are."""
    named: dict[str, Tensor] = {}
    width = next((len(tensor) for name, tensor in state.items() if name.endswith("linear_c1.proj.bias")), 1)
    for full_name, tensor in state.items():
        name = full_name.removeprefix("decoder.")
        if found := _PROJECTION.match(name):
            named[f"pyramid.project.{_FINEST - int(found[1])}.{found[2]}"] = tensor
        elif found := _DIFFERENCE.match(name):
            module = f"pyramid.difference.{_FINEST - int(found[1])}"
            if found[2] == "0" and found[3] == "weight":  # (E, 2E, 3, 3): channels of the test come first
                test, golden = tensor.chunk(2, dim=1)
                named[f"{module}.test_half.weight"], named[f"{module}.golden_half.weight"] = test, golden
            else:
                named[f"{module}.{_DIFFERENCE_PARTS[found[2]]}.{found[3]}"] = tensor
        elif found := _POSITION.match(name):
            named[f"pyramid.golden_fusion.{_FINEST - int(found[1])}.position"] = tensor
        elif found := _ATTENTION.match(name):
            fusion = f"pyramid.golden_fusion.{_FINEST - int(found[1])}"
            named[f"{fusion}.{_ATTENTION_PARTS[found[2]]}.{found[3]}"] = tensor
        elif found := _GOLDEN_NORM.match(name):
            named[f"pyramid.golden_fusion.{_FINEST - int(found[1])}.norm.{found[2]}"] = tensor
        elif (found := _SCALING.match(name)) and math.isclose(float(tensor), width**-0.5, rel_tol=1e-6):
            continue  # a constant of the architecture: what scaled dot-product attention divides by anyway
        elif name == "linear_fuse.0.weight":  # (E, n E, 1, 1): the coarsest level's channels come first
            for level, part in enumerate(torch.split(tensor, tensor.shape[0], dim=1)):
                named[f"pyramid.fuse.{level}.weight"] = part
        elif name == "linear_fuse.0.bias":
            named["pyramid.fuse.0.bias"] = tensor
        elif name.startswith("linear_fuse.1."):
            named[name.replace("linear_fuse.1.", "pyramid.fuse_norm.")] = tensor
        elif name.startswith(("classifier.", "fc1.")):
            named[f"head.layers.{name.split('.', 1)[1]}"] = tensor
        else:
            named[full_name] = tensor
    return named
