"""Weights that lie in files of their own beside a graph, as those of 2 GiB and more must: they stay in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from changenet.errors import CheckpointError, EngineError

LIMIT = 2**31  # bytes of one protobuf message
_SMALL = 1024  # bytes; less stays in the graph, which may need it to know its shapes


def places(model: onnx.ModelProto) -> set[str]:
    """Return the names of the files that hold weights of a graph."""
    return {_place(each)["location"] for each in model.graph.initializer if _is_outside(each)}


def array(tensor: TensorProto, files: Mapping[str, bytes]) -> NDArray[Any]:
    """Return the values of a weight, wherever they are.

    Args:
        tensor: Of a graph.
        files: Name to content of the files beside the graph.

    Raises:
        CheckpointError: The file is not there, or too short.
    """
    if not _is_outside(tensor):
        return np.asarray(numpy_helper.to_array(tensor))
    whole = TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
    whole.raw_data = _bytes(tensor, files).tobytes()
    return np.asarray(numpy_helper.to_array(whole))


def parse(parser: Any, model: onnx.ModelProto, files: Mapping[str, bytes]) -> tuple[bool, list[NDArray[np.uint8]]]:
    """Let TensorRT's parser read a graph; nothing is written to a disk on the way.

    Returns:
        Whether it could, and what must be kept as long as the parser.

    Raises:
        CheckpointError: A file of weights is not there, or too short.
        EngineError: This version of TensorRT takes smaller graphs only.
    """
    if not files:
        return bool(parser.parse(model.SerializeToString())), []
    light = onnx.ModelProto()
    light.CopyFrom(model)
    held = {}
    for tensor in light.graph.initializer:
        if _is_outside(tensor):
            held[tensor.name] = _bytes(tensor, files)
        elif len(tensor.raw_data) >= _SMALL:
            held[tensor.name] = np.frombuffer(tensor.raw_data, np.uint8)
            onnx.external_data_helper.set_external_data(tensor, "memory")
            tensor.ClearField("raw_data")
    if hasattr(parser, "load_model_proto"):
        read = parser.load_model_proto(light.SerializeToString())
        read = read and all(parser.load_initializer(name, each.ctypes.data, each.nbytes) for name, each in held.items())
        return bool(read and parser.parse_model_proto()), list(held.values())
    if light.ByteSize() + sum(each.nbytes for each in held.values()) >= LIMIT:
        what = f"this TensorRT takes weights of less than {LIMIT >> 30} GiB"
        raise EngineError(what, fix="Upgrade TensorRT, or build with data_type: fp16.")
    for tensor in light.graph.initializer:
        if tensor.name in held:
            tensor.ClearField("external_data")
            tensor.data_location = TensorProto.DEFAULT
            tensor.raw_data = held[tensor.name].tobytes()
    return bool(parser.parse(light.SerializeToString())), []


def _is_outside(tensor: TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def _place(tensor: TensorProto) -> dict[str, str]:
    return {each.key: each.value for each in tensor.external_data}


def _bytes(tensor: TensorProto, files: Mapping[str, bytes]) -> NDArray[np.uint8]:
    place = _place(tensor)
    content = files.get(place["location"], b"")
    offset = int(place.get("offset", 0))
    length = int(place.get("length", len(content) - offset))
    if not content or length < 0 or offset + length > len(content):
        what = f"holds not all weights of {tensor.name}, or is missing"
        raise CheckpointError(what, where=place["location"], fix="Copy it from where the graph was exported.")
    return np.frombuffer(content, np.uint8, length, offset)
