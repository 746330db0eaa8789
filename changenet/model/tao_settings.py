"""What the tensors of a TAO checkpoint show about the settings that it was trained with, by the keys of TAO's spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from changenet.errors import Problem
from changenet.model.catalogue import BACKBONE_KEY, CATALOGUE

_CLASSIFY, _DATA, _DECODER = "model.classify", "dataset.classify", "model.decode_head"
_FINEST = 4  # stride of the map that the classifier sees
_LEVELS = (1, 2, 3, 4)
_PIXELS = f"image_width x image_height of {_DATA}, all lights together"


def differing_settings(arguments: Mapping[str, Any], state: Mapping[str, Tensor], *, where: str) -> Iterator[Problem]:
    """Yield every setting in which a network is not the one whose tensors these are, as far as names and shapes show.

    Args:
        arguments: Of the network (`ChangeNet.arguments`).
        state: Names as inside TAO's network.
        where: File name for messages.
    """
    height, width = arguments["image_size"]
    here = {
        f"{_CLASSIFY}.difference_module": arguments["difference_module"],
        f"{_CLASSIFY}.embedding_vectors": arguments["embedding_vectors"],
        f"{_CLASSIFY}.embed_dec": arguments["embed_dec"],
        f"{_CLASSIFY}.learnable_difference_modules": arguments["learnable_difference_modules"],
        f"{_DECODER}.decoder_params.embed_dim": arguments["embed_dim"],
        f"{_DECODER}.use_summary_token": arguments["use_summary_token"],
        f"{_DATA}.num_classes": arguments["num_classes"],
        f"{_DATA}.num_golden": "1" if arguments["num_golden"] == 1 else "more than 1",
        _PIXELS: height * width,
    }
    encoder = CATALOGUE.get(arguments["backbone"])
    if encoder is None or encoder.family != "vit" or "nvdinov2" in encoder.name:  # without a choice
        del here[f"{_DECODER}.use_summary_token"]
    there = shown_settings(state)
    for key, value in here.items():
        if there.get(key, value) != value:
            yield Problem(f"{key}: is {value}, the file has {there[key]}", where=where, fix="Write what the file has.")
    widths = tuple(_side(state, f"decoder.linear_c{level}.proj.weight", 1) for level in _LEVELS)
    if encoder is not None and all(widths) and encoder.widths != widths:
        fitting = [each.name for each in CATALOGUE.values() if each.widths == widths]
        what = f"{BACKBONE_KEY}: is {encoder.name}, the file has levels of {', '.join(map(str, widths))} channels"
        yield Problem(what, where=where, fix=f"They are those of {' or '.join(fitting) or 'no encoder known here'}.")


def shown_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the settings that names and shapes of TAO's tensors show, by key; a number that none shows is left out."""
    if any(name.startswith("fc1.") for name in state):
        return {
            f"{_CLASSIFY}.difference_module": "euclidean",
            f"{_CLASSIFY}.embedding_vectors": _outputs(state, "fc1."),
        }
    width, cells = _side(state, "decoder.linear_c1.proj.weight", 0), _side(state, "decoder.classifier.0.weight", 1)
    several = any(name.startswith("decoder.attn_c") for name in state)
    numbers = {
        f"{_CLASSIFY}.embed_dec": _side(state, "decoder.classifier.0.weight", 0),
        f"{_CLASSIFY}.learnable_difference_modules": _side(state, "decoder.linear_fuse.0.weight", 1) // max(1, width),
        f"{_DECODER}.decoder_params.embed_dim": width,
        f"{_DATA}.num_classes": _outputs(state, "decoder.classifier."),
        _PIXELS: cells // max(1, width) * _FINEST**2,
    }
    return {
        f"{_CLASSIFY}.difference_module": "learnable",
        f"{_DECODER}.use_summary_token": any(name.startswith("backbone.fc_summary.") for name in state),
        f"{_DATA}.num_golden": "more than 1" if several else "1",
        **{key: number for key, number in numbers.items() if number},
    }


def _outputs(state: Mapping[str, Tensor], head: str) -> int:
    """Return the rows of a head's last linear layer."""
    layers = [name for name in state if name.startswith(head) and name.endswith(".weight") and state[name].ndim > 1]
    return _side(state, max(layers, default=""), 0)  # single digits: the order of the text is that of the layers


def _side(state: Mapping[str, Tensor], name: str, dimension: int) -> int:
    """Return the length of a side of a tensor; 0 where there is no such tensor."""
    shape = state[name].shape if name in state else ()
    return shape[dimension] if len(shape) > dimension else 0
