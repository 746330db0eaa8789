"""The graphs of a network that ModelOpt quantized: its rounding becomes QuantizeLinear and DequantizeLinear.

The network of floats is traced, and what the observers saw is written around the nodes of each layer: every number
format takes the same road, and nodes have the names that they have in graphs of floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.engines.torch import TorchEngine
from changenet.errors import EngineError
from changenet.export.graphs import assemble
from changenet.export.layers import layers_of_nodes
from changenet.export.parity import check_parity
from changenet.export.trace import trace_parts
from changenet.model.merging import merged
from changenet.model.network import ChangeNet
from changenet.quantization import modelopt
from changenet.quantization.file import QuantizedCheckpoint, build_quantized

OPSET = 19  # the first one that quantizes to floats of 8 bits
_TYPES = {"int8": TensorProto.INT8, "fp8_e4m3fn": TensorProto.FLOAT8E4M3FN}
_LARGEST = {"int8": 127.0, "fp8_e4m3fn": 448.0}  # what the end of a range becomes
_SMALLEST_RANGE = np.float32(1e-12)  # of a channel without weights


def qdq_graphs(checkpoint: QuantizedCheckpoint) -> dict[str, bytes]:
    """Return file name to graph, as in a bundle, once they have given the scores of the rounded network.

    Raises:
        CheckpointError: The tensors do not fit.
        EngineError: ModelOpt or onnxruntime is not installed, the weights are too large for one ONNX file, or a graph does
            not agree.
    """
    rounded, description = build_quantized(checkpoint), checkpoint.description
    floats = merged(ChangeNet(**description.network), in_place=True)
    floats.load_state_dict(modelopt.floats_of(checkpoint.state))
    parts = trace_parts(floats.eval(), opset=OPSET)
    if parts.weights:
        what = "its weights do not fit into one ONNX file, which holds less than 2 GiB"
        raise EngineError(what, fix="Quantize a smaller encoder, or with backend: torchao.")
    ranges = modelopt.ranges_of(checkpoint.layers, checkpoint.state)
    encoder, comparator = (
        quantize_nodes(each, checkpoint.layers, ranges) for each in (parts.encoder, parts.comparator)
    )
    golden = None if parts.golden is None else quantize_nodes(parts.golden, checkpoint.layers, ranges)
    parts = replace(parts, encoder=encoder, golden=golden, comparator=comparator)
    graphs = {name: graph.SerializeToString(deterministic=True) for name, graph in assemble(parts).items()}
    check_parity(
        OnnxRuntimeEngine(graphs.__getitem__, description=description, precision=checkpoint.precision),
        TorchEngine(rounded, precision=checkpoint.precision),
        description,
        fix="Quantize fewer layers, or with backend: onnxruntime.",
    )
    return graphs


def quantize_nodes(graph: onnx.ModelProto, layers: Mapping[str, str], ranges: Mapping[str, float]) -> onnx.ModelProto:
    """Return a copy of a graph whose layers take rounded inputs and rounded weights.

    Args:
        graph: Of floats, with its weights.
        layers: Name of each layer to its number format, `int8` or `fp8_e4m3fn`.
        ranges: Largest absolute value of each layer's input. A weight has a range for each output channel: its own.
    """
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    of_nodes = layers_of_nodes(graph, layers)
    weights = {each.name: each for each in graph.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    rounded: dict[tuple[str, str, float], str] = {}  # several layers take the same tensor
    for node in made.graph.node:
        if layer := of_nodes.get(node.name):
            dtype, limit = layers[layer], ranges[layer]
            taken = (node.input[0], dtype, limit)
            if taken not in rounded:
                constants, added = _round_input(node, dtype, limit)
                made.graph.initializer.extend(constants)
                nodes.extend(added)
                rounded[taken] = added[-1].output[0]
            constants, dequantize = _round_weight(node, numpy_helper.to_array(weights[node.input[1]]), dtype)
            made.graph.initializer.extend(constants)
            nodes.append(dequantize)
            node.input[:] = [rounded[taken], dequantize.output[0], *node.input[2:]]
        nodes.append(node)
    kept = {name for node in nodes for name in node.input}
    constants = [each for each in made.graph.initializer if each.name in kept]
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(constants)
    return made


def _round_input(node: onnx.NodeProto, dtype: str, limit: float) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """Return the constants and nodes that round what a node takes first, to one scale for the whole tensor."""
    stem = f"{node.name}/input"
    scale = _scale(np.float32(limit), dtype)
    constants = [numpy_helper.from_array(scale, f"{stem}/scale"), _zero(f"{stem}/zero", dtype, ())]
    names = [each.name for each in constants]
    return constants, [
        helper.make_node("QuantizeLinear", [node.input[0], *names], [f"{stem}/quantized"], name=f"{stem}/Quantize"),
        helper.make_node(
            "DequantizeLinear", [f"{stem}/quantized", *names], [f"{stem}/rounded"], name=f"{stem}/Dequantize"
        ),
    ]


def _round_weight(
    node: onnx.NodeProto, weight: NDArray[np.float32], dtype: str
) -> tuple[list[TensorProto], onnx.NodeProto]:
    """Return a weight in 8 bits with its scales, and the node that gives floats again, with a scale for each output channel."""
    stem, axis = f"{node.name}/weight", _output_axis(node, weight.ndim)
    others = tuple(each for each in range(weight.ndim) if each != axis)
    scale = _scale(np.abs(weight).max(axis=others, keepdims=True), dtype)
    steps = np.clip(weight / scale, -_LARGEST[dtype], _LARGEST[dtype])
    numbers = (np.rint(steps) if dtype == "int8" else steps).astype(helper.tensor_dtype_to_np_dtype(_TYPES[dtype]))
    scale = scale.reshape(-1)
    constants = [
        numpy_helper.from_array(numbers, f"{stem}/quantized"),
        numpy_helper.from_array(scale, f"{stem}/scale"),
        _zero(f"{stem}/zero", dtype, scale.shape),
    ]
    names = [each.name for each in constants]
    return constants, helper.make_node(
        "DequantizeLinear", names, [f"{stem}/rounded"], name=f"{stem}/Dequantize", axis=axis
    )


def _output_axis(node: onnx.NodeProto, ndim: int) -> int:
    """Return the dimension of a weight that its output channels are."""
    transposed = any(each.name == "transB" and each.i for each in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else ndim - 1


def _scale(limit: Any, dtype: str) -> Any:
    return np.maximum(limit, _SMALLEST_RANGE) / np.float32(_LARGEST[dtype])


def _zero(name: str, dtype: str, shape: tuple[int, ...]) -> TensorProto:
    return numpy_helper.from_array(np.zeros(shape, helper.tensor_dtype_to_np_dtype(_TYPES[dtype])), name)
