"""Reads other people's files of weights without running anything they contain."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from changenet import storage
from changenet.errors import CheckpointError, Problem

SUFFIXES = (".pth", ".pt", ".ckpt", ".tlt", ".safetensors")
_SHOWN = 5


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file, and how the file calls itself.

    Args:
        tensors: By their names in the file.
        tao_model: TAO's tag, e.g. `visual_changenet_classify`; empty in other files.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    tao_model: str = ""


def read_weights(path: str) -> WeightFile:
    """Read a `.safetensors` file or a pickled one: its `state_dict`, its `model`, or itself.

    Pickled files are read with torch's `weights_only`; objects that are no tensors become inert.

    Raises:
        CheckpointError: The file is missing, damaged, encrypted, or holds no tensors.
    """
    if not path.endswith(SUFFIXES):
        raise CheckpointError("no file of weights", where=path, fix=f"Its suffix must be one of {', '.join(SUFFIXES)}.")
    if not storage.exists(path):
        raise CheckpointError("no such file", where=path, fix="Check the path.")
    try:
        content = _read_safetensors(path) if path.endswith(".safetensors") else _read_pickled(path)
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError, SafetensorError, OSError) as error:
        message = str(error).strip().split("\n")[0]
        raise CheckpointError(f"cannot be read as weights: {message}", where=path, fix="Is it whole?") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"holds a {type(content).__name__}, not named tensors", where=path)
    if "state_dict_encrypted" in content:
        raise CheckpointError(
            "is encrypted by TAO, with a method that only TAO has", where=path, fix="Save it from TAO without a key."
        )
    tag = content.get("tao_model")
    inner = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    tensors = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError("holds no tensors", where=path)
    return WeightFile(tensors, tag if isinstance(tag, str) else "")


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


def _read_pickled(path: str) -> Any:
    content = io.BytesIO(storage.read_bytes(path))
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(content)
    except ValueError:  # torch's format before 1.6, which it cannot look into
        foreign = []
    content.seek(0)
    with torch.serialization.safe_globals(list(_stand_ins(foreign))):
        return torch.load(content, map_location="cpu", weights_only=True)


def _stand_ins(names: Iterable[str]) -> Iterable[tuple[type, str]]:
    """Give a harmless class for every foreign one: training settings kept in a checkpoint must not bar its tensors."""
    for name in names:
        yield type(name.rsplit(".", 1)[-1], (_Inert,), {}), name


class _Inert:
    """Takes the place of any foreign object and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass
