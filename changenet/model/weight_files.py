"""Reads other people's files of weights without running anything they contain."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from changenet import encryption
from changenet.errors import CheckpointError, Problem
from changenet.model.inert_pickle import Record, read_inert

_SHOWN = 5
_LONGEST_HEADER = 100_000_000  # bytes, of a safetensors file, by its format
_ETLT = bytes(4)  # the length of a name that is left out begins the .etlt files of ONNX models
_PLACES = ("state_dict", "model")  # where training programs put the tensors


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


def read_weights(path: str, *, encryption_key: str | None = None) -> WeightFile:
    """Read a safetensors file or a pickled one: its `state_dict`, its `model`, or itself.

    What a file is shows by its content, whatever its name. Pickled files are read without running anything in them
    (`read_pickled`).

    Args:
        path: File or URI.
        encryption_key: Opens files of ours that are encrypted.

    Raises:
        CheckpointError: The file is missing, a folder, damaged, encrypted with another key or by TAO, or holds no
            tensors.
    """
    content = encryption.read_model(path, encryption_key)
    if not _is_safetensors(content):
        return find_weights(read_pickled(content, where=path), where=path)
    try:
        return find_weights(safetensors.torch.load(content.getvalue()), where=path)
    except (ValueError, SafetensorError) as error:
        raise _unreadable(error, path) from error


def read_pickled(content: io.BytesIO, *, where: str) -> Any:
    """Return what a file of `torch.save` holds, on the CPU; objects that are neither tensors nor plain become `Record`s.

    Raises:
        CheckpointError: The file is empty, damaged, or something else.
    """
    start = bytes(content.getbuffer()[:4])
    if not start:
        raise CheckpointError("is empty", where=where, fix="Copy the file again.")
    if not start.startswith((b"PK\x03\x04", b"\x80")):  # a zip archive; a pickle since its protocol 2
        if start == _ETLT or where.lower().endswith(".etlt"):
            what = "looks like an .etlt file, an ONNX model that TAO encrypted and that only TAO opens"
            fix = "Give the checkpoint that it was exported from (.pth or .tlt), saved without a key."
            raise CheckpointError(what, where=where, fix=fix)
        if where.lower().endswith(".onnx"):
            what = "is an ONNX graph, not a checkpoint"
            raise CheckpointError(what, where=where, fix="Give the checkpoint (.pth) that it was exported from.")
        what = "is neither a file of torch.save nor of safetensors"
        raise CheckpointError(what, where=where, fix="Give a file of weights.")
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickles that the next reader takes
            return torch.load(content, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError, OSError):
        content.seek(0)  # it holds more than tensors and plain values; or the next reader says in our words what it is
    try:
        return read_inert(content)
    except pickle.UnpicklingError as error:
        raise _unreadable(error, where) from error


def find_weights(content: Any, *, where: str) -> WeightFile:
    """Return the tensors of a file's content, wherever training programs put them.

    Raises:
        CheckpointError: It is encrypted by TAO, a pickled module, or holds no tensors.
    """
    if isinstance(content, Record):
        raise _pickled_module(content, where)
    if not isinstance(content, dict):
        raise CheckpointError(f"holds a {type(content).__name__}, not named tensors", where=where)
    if "state_dict_encrypted" in content:
        raise CheckpointError(
            "is encrypted by TAO, with a method that only TAO has: encryption_key does not open it",
            where=where,
            fix="Save it from TAO without a key.",
        )
    tag = content.get("tao_model")
    key = next((key for key in _PLACES if isinstance(content.get(key), dict)), None)
    inner = content if key is None else content[key]
    # `dict.items`: a file can give the mappings in it an attribute of that name.
    tensors = {str(name): value for name, value in dict.items(inner) if isinstance(value, Tensor)}
    if not tensors:
        module = next((each for key in _PLACES if isinstance(each := content.get(key), Record)), None)
        raise CheckpointError("holds no tensors", where=where) if module is None else _pickled_module(module, where)
    beside = {} if key is None else {str(name): value for name, value in dict.items(content) if name != key}
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


def _is_safetensors(content: io.BytesIO) -> bool:
    """Say whether a file begins as the format has it: the length of the header (8 bytes), then the header, in JSON."""
    start = bytes(content.getbuffer()[:9])
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _LONGEST_HEADER


def _pickled_module(module: Record, where: str) -> CheckpointError:
    kind = module.name.rpartition(".")[2]
    return CheckpointError(
        f"holds a pickled module ({kind}), not named tensors", where=where, fix="Save its state_dict() and give that."
    )


def _unreadable(error: Exception, path: str) -> CheckpointError:
    message = str(error).strip().split("\n")[0]
    return CheckpointError(f"cannot be read as weights: {message}", where=path, fix="Is it whole?")
