"""TAO's training checkpoints as files: what they hold beside the tensors, recognised by content, whatever their name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import Tensor

from changenet.errors import CheckpointError
from changenet.model.inert_pickle import plain
from changenet.model.tao_checkpoint import LOSS_WEIGHTS, TAO_TAG, inner_name, is_tao_state, strip_training_module
from changenet.model.weight_files import find_weights

_DEEPEST = 4  # how far inside the settings a spec is looked for
_MOST = 5_000  # values of a spec; the longest that TAO writes has some 300


@dataclass(frozen=True)
class TaoCheckpoint:
    """A classification checkpoint of TAO's Visual ChangeNet.

    Args:
        tensors: Names as inside TAO's network.
        spec: The spec that it was trained with, by TAO's names, where the file has one that can be read; else empty.
        epoch: Zero-based epoch after which it was written, if it says so.
        versions: Of the packages that wrote it, as far as it says so.
        class_weights: Of its loss, PASS first; empty where it has none.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    spec: dict[str, Any] = field(default_factory=dict, repr=False)
    epoch: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    class_weights: tuple[float, ...] = ()


def recognise(content: Any, *, where: str) -> TaoCheckpoint | None:
    """Return the TAO checkpoint that a file's content is, or None.

    Args:
        content: Of the file, as `weight_files.read_pickled` gives it.
        where: File name for messages.

    Raises:
        CheckpointError: It is one of TAO's, but encrypted or of another task.
    """
    if not isinstance(content, dict) or not content:
        return None
    try:
        file = find_weights(content, where=where)
    except CheckpointError:
        if "state_dict_encrypted" in content:
            raise
        return None
    if file.tao_model and file.tao_model != TAO_TAG:
        raise CheckpointError(
            f"is a checkpoint of TAO's {file.tao_model!r}", where=where, fix=f"Give one of {TAO_TAG!r}."
        )
    if not is_tao_state(file.tensors):
        return None
    epoch = file.beside.get("epoch")
    weights = next((each for name, each in file.tensors.items() if inner_name(name) == LOSS_WEIGHTS), None)
    lightning = file.beside.get("pytorch-lightning_version")
    return TaoCheckpoint(
        strip_training_module(file.tensors),
        spec=_find_spec(plain(file.beside.get("hyper_parameters"))),
        epoch=epoch if isinstance(epoch, int) else None,
        versions={"pytorch-lightning": lightning} if isinstance(lightning, str) else {},
        class_weights=() if weights is None else tuple(float(each) for each in weights.flatten()),
    )


def _find_spec(settings: Any) -> dict[str, Any]:
    """Return the outermost mapping that has a network and data, as a spec has; empty where there is none."""
    level, seen = [settings], set[int]()
    for _ in range(_DEEPEST):
        level = [each for each in level if isinstance(each, Mapping) and id(each) not in seen]
        seen |= {id(each) for each in level}
        for each in level:
            if all(isinstance(each.get(section), Mapping) for section in ("model", "dataset")):
                return dict(each) if len(list(islice(_values(each), _MOST + 1))) <= _MOST else {}
        level = [inner for each in level for inner in each.values()]
    return {}


def _values(node: Any) -> Iterator[Any]:
    inner = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    yield node
    for each in inner:
        yield from _values(each)
