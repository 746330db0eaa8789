"""Layers of ONNX graphs in int8, by ONNX Runtime's own quantizer, from ranges seen on real pairs.

Everything happens in memory: the usual entrance of the quantizer leaves the weights in temporary files.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from changenet.engines.onnxruntime import import_onnxruntime
from changenet.errors import EngineError
from changenet.export.layers import OPERATORS, cut_off, layers_of_nodes
from changenet.export.trace import Parts

_BINS = 128  # of a histogram to begin with, and of 8 bits; ONNX Runtime's own choice
_COLOURS = 3  # channels of a picture
Arrays = dict[str, NDArray[Any]]


def quantizable(module: nn.Module) -> bool:
    """Say whether a layer gains: depthwise and grouped convolutions are slower in int8 than in floats.

    A convolution over pixels has large weights that cancel out: rounding them costs decisions.
    """
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.in_channels > _COLOURS
    return isinstance(module, nn.Linear)


def quantize_parts(
    parts: Parts,
    layers: Collection[str],
    pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    *,
    entropy: bool = False,
) -> tuple[Parts, set[str]]:
    """Return the pieces of a network with layers in int8, and which layers those are: a piece may lack some.

    Tests and goldens both go through the encoder, and each on through its own side of the comparison.

    Args:
        parts: Of floats; they are not changed.
        layers: Names of the layers.
        pairs: Tests uint8 (B, 3, H, W) and goldens ([B, N,] 3, H, W), batch by batch.
        entropy: Ranges that lose the least information, instead of the smallest and the largest value.

    Raises:
        EngineError: onnxruntime is not installed, or the weights are too large for one ONNX file.
    """
    if parts.weights:
        what = "ONNX Runtime's quantizer takes weights of less than 2 GiB"
        raise EngineError(what, fix="Quantize with backend: torchao.")
    graphs = [parts.encoder, parts.comparator, *([parts.golden] if parts.golden is not None else [])]
    nodes = [layers_of_nodes(graph, layers) for graph in graphs]
    observers = [Observer(graph, found, entropy=entropy) for graph, found in zip(graphs, nodes, strict=True)]
    encoder, comparator, golden = ([*observers, None])[:3]
    normalise = Observer(parts.normalise, ())
    assert encoder is not None
    assert comparator is not None
    for test, goldens in pairs:
        features, of_golden = (
            encoder.run(normalise.run({"picture": pictures.reshape(-1, *pictures.shape[-3:])}))
            for pictures in (test, goldens)
        )
        halves = golden.run(of_golden) if golden is not None else _renamed(of_golden, "features", "golden")
        if parts.goldens > 1:
            halves = {name: half.reshape(len(test), -1, *half.shape[1:]) for name, half in halves.items()}
        comparator.run(_renamed(features, "features", "test") | halves)
    made = [
        _quantize(graph, found, observer.ranges())
        for graph, found, observer in zip(graphs, nodes, observers, strict=True)
    ]
    done = {layer for found in nodes for layer in found.values()}
    return replace(parts, encoder=made[0], comparator=made[1], golden=made[2] if golden is not None else None), done


class Observer:
    """Runs a graph of floats and notes the range of whatever goes into nodes or comes out of them.

    Of what an activation cuts off (a ReLU6 leaves 0 to 6 of -100 to 100) only the rest counts: it gets all 256 steps.

    Args:
        graph: It is not changed.
        nodes: Names of the nodes.
        entropy: As in `quantize_parts`.
    """

    def __init__(self, graph: onnx.ModelProto, nodes: Collection[str], *, entropy: bool = False) -> None:
        weights = {each.name for each in graph.graph.initializer}
        seen = [name for node in graph.graph.node if node.name in nodes for name in (*node.input[:2], *node.output)]
        self._rest = cut_off(graph, nodes)
        self._seen = [
            name for name in dict.fromkeys(self._rest.get(each, each) for each in seen) if name not in weights
        ]
        self._outputs = [value.name for value in graph.graph.output]
        known = {value.name for value in [*graph.graph.input, *graph.graph.output]}
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
        copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._seen if name not in known)
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._limits: dict[str, tuple[float, float]] = {}
        self._histograms: Any = None
        if entropy:
            from onnxruntime.quantization.calibrate import HistogramCollector

            self._histograms = HistogramCollector("entropy", False, _BINS, _BINS, 99.999, "same")

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return the graph's outputs by name, and remember what was seen on the way."""
        names = list(dict.fromkeys([*self._outputs, *(name for name in self._seen if name not in inputs)]))
        found: Arrays = {**inputs, **dict(zip(names, self._session.run(names, dict(inputs)), strict=True))}
        seen = {name: found[name] for name in self._seen}
        if self._histograms is not None:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints
                self._histograms.collect(seen)
        for name, values in seen.items():
            low, high = self._limits.get(name, (np.inf, -np.inf))
            self._limits[name] = (min(low, float(values.min())), max(high, float(values.max())))
        return {name: found[name] for name in self._outputs}

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return the range of every tensor by name."""
        found = dict(self._limits)
        if self._histograms is not None:
            with contextlib.redirect_stdout(io.StringIO()):
                entropy = self._histograms.compute_collection_result()
            # Its histograms are symmetric: they reach beyond what was seen.
            for name, (low, high) in self._limits.items():
                found[name] = (max(low, float(entropy[name][0])), min(high, float(entropy[name][1])))
        return found | {given: found[left] for given, left in self._rest.items()}


def _quantize(
    graph: onnx.ModelProto, nodes: Collection[str], ranges: Mapping[str, tuple[float, float]]
) -> onnx.ModelProto:
    """Return a copy of a graph with nodes between QuantizeLinear and DequantizeLinear."""
    if not nodes:
        return graph
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    model = onnx.shape_inference.infer_shapes(graph)
    mark = model.metadata_props.add()  # without it the quantizer infers the shapes again, through a file
    mark.key, mark.value = "onnx.infer", "onnxruntime.quant"
    known = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, known),
        nodes_to_quantize=list(nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=list(OPERATORS),
        # A linear layer gives floats at no cost, and its output is more exact so.
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    made: onnx.ModelProto = quantizer.model.model
    _relus_as_maxima(made)
    del made.metadata_props[:]
    del made.graph.value_info[:]
    # What the quantizer adds at the edges of two graphs has the same names in both.
    edges = {"", *(value.name for value in [*made.graph.input, *made.graph.output])}
    prefix = f"{graph.graph.name}/"

    def own(name: str) -> str:
        return name if name in edges or name.startswith(prefix) else f"{prefix}{name}"

    for weight in made.graph.initializer:
        weight.name = own(weight.name)
    for node in made.graph.node:
        node.name = own(node.name)
        node.input[:] = [own(name) for name in node.input]
        node.output[:] = [own(name) for name in node.output]
    return made


def _relus_as_maxima(graph: onnx.ModelProto) -> None:
    """Write a ReLU between a linear layer in integers and one in floats as a maximum, in place.

    ONNX Runtime computes the layer in floats before a `Relu` that gives floats, and takes all its weights out of 8 bits
    for every batch.
    """
    nodes = graph.graph.node
    rounded = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    linear = {
        node.output[0] for node in nodes if node.op_type in ("Gemm", "MatMul") and rounded.issuperset(node.input[:2])
    }
    rounded_next = {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    relus = [node for node in nodes if node.op_type == "Relu" and node.input[0] in linear]
    if of_floats := [node for node in relus if node.output[0] not in rounded_next]:
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "zero"))
    for node in of_floats:
        node.op_type = "Max"
        node.input.append("zero")


def _renamed(arrays: Arrays, old: str, new: str) -> Arrays:
    return {name.replace(old, new): array for name, array in arrays.items()}
