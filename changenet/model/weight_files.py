"""Reads other people's files of weights without running anything they contain."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from changenet import storage
from changenet.errors import CheckpointError, Problem
from changenet.model.inert_pickle import read_inert

SUFFIXES = (".pth", ".pth.tar", ".pt", ".ckpt", ".tlt", ".safetensors")
_SHOWN = 5


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file, and how the file calls itself.

    Args:
        tensors: By their names in the file.
        tao_model: TAO's tag, e.g. `visual_changenet_classify`; empty in other files.
        beside: What else the file holds beside the tensors; objects of unknown classes are `Record`s.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    tao_model: str = ""
    beside: dict[str, Any] = field(default_factory=dict, repr=False)


def read_weights(path: str) -> WeightFile:
    """Read a `.safetensors` file or a pickled one: its `state_dict`, its `model`, or itself.

    Pickled files are read without running anything in them (`read_pickled`).

    Raises:
        CheckpointError: The file is missing, damaged, encrypted, or holds no tensors.
    """
    if not path.endswith(SUFFIXES):
        raise CheckpointError("no file of weights", where=path, fix=f"Its suffix must be one of {', '.join(SUFFIXES)}.")
    if not storage.exists(path):
        raise CheckpointError("no such file", where=path, fix="Check the path.")
    if not path.endswith(".safetensors"):
        return find_weights(read_pickled(io.BytesIO(storage.read_bytes(path)), where=path), where=path)
    try:
        return find_weights(_read_safetensors(path), where=path)
    except (ValueError, SafetensorError, OSError) as error:
        raise _unreadable(error, path) from error


def read_pickled(content: io.BytesIO, *, where: str) -> Any:
    """Return what a file of `torch.save` holds, on the CPU; objects that are neither tensors nor plain become `Record`s.

    Raises:
        CheckpointError: The file is damaged.
    """
    try:
        try:
            with warnings.catch_warnings(action="ignore"):  # about pickles that the next reader takes
                return torch.load(content, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # it holds more than tensors and plain values
            content.seek(0)
            return read_inert(content)
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError, OSError) as error:
        raise _unreadable(error, where) from error


def find_weights(content: Any, *, where: str) -> WeightFile:
    """Return the tensors of a file's content, wherever training programs put them.

    Raises:
        CheckpointError: It is encrypted by TAO, or holds no tensors.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f"holds a {type(content).__name__}, not named tensors", where=where)
    if "state_dict_encrypted" in content:
        raise CheckpointError(
            "is encrypted by TAO, with a method that only TAO has", where=where, fix="Save it from TAO without a key."
        )
    tag = content.get("tao_model")
    key = next((key for key in ("state_dict", "model") if isinstance(content.get(key), dict)), None)
    inner = content if key is None else content[key]
    tensors = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError("holds no tensors", where=where)
    beside = {} if key is None else {str(name): value for name, value in content.items() if name != key}
    return WeightFile(tensors, tag if isinstance(tag, str) else "", beside)


def fit_shapes(tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with sides of length one added or dropped as `wanted` has them (1 x 1 convolution = linear layer).

    >>> fit_shapes({"a": torch.zeros(2, 3)}, {"a": torch.zeros(2, 3, 1, 1)})["a"].shape
    torch.Size([2, 3, 1, 1])
    """
    return {
        name: tensor.reshape(wanted[name].shape)
        if name in wanted and _sides(tensor) == _sides(wanted[name])
        else tensor
        for name, tensor in tensors.items()
    }


def load_exactly(module: torch.nn.Module, tensors: dict[str, Tensor], *, where: str, fix: str) -> None:
    """Load tensors into a module when, and only when, names and shapes are exactly its own.

    Counters of batches (`num_batches_tracked`) may be missing: evaluation does not use them.

    Raises:
        CheckpointError: Something is missing, left over or of another shape; the module is unchanged.
    """
    wanted = module.state_dict()
    fitted = fit_shapes(tensors, wanted)
    missing = [name for name in wanted if name not in fitted and not name.endswith("num_batches_tracked")]
    extra = [name for name in fitted if name not in wanted]
    shapes = [
        f"{name} {tuple(fitted[name].shape)} (here {tuple(wanted[name].shape)})"
        for name in wanted
        if name in fitted and fitted[name].shape != wanted[name].shape
    ]
    kinds = {"missing": missing, "left over": extra, "of another shape": shapes}
    problems = [
        Problem(f"{len(names)} tensors are {kind}: {first_of(names)}", where=where, fix=fix)
        for kind, names in kinds.items()
        if names
    ]
    if problems:
        raise CheckpointError(problems)
    module.load_state_dict(fitted, strict=False)


def first_of(names: Sequence[str]) -> str:
    """Return the first few names, for a message."""
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _sides(tensor: Tensor) -> list[int]:
    return [side for side in tensor.shape if side != 1]


def _read_safetensors(path: str) -> dict[str, Any]:
    import safetensors.torch

    return dict(safetensors.torch.load(storage.read_bytes(path)))


def _unreadable(error: Exception, path: str) -> CheckpointError:
    message = str(error).strip().split("\n")[0]
    return CheckpointError(f"cannot be read as weights: {message}", where=path, fix="Is it whole?")
