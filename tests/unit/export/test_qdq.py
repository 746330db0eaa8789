"""Graphs of what ModelOpt rounded: the same rounding, number for number, in every number format."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.engines.tolerance import tolerance
from changenet.engines.torch import TorchEngine
from changenet.export import qdq
from changenet.export.qdq import qdq_graphs
from changenet.quantization.file import build_quantized

KINDS = {"int8": TensorProto.INT8, "fp8_e4m3fn": TensorProto.FLOAT8E4M3FN}


@pytest.mark.parametrize("dtype", KINDS)
def test_the_graphs_round_as_the_network_does(checkpoint, pairs, round_by_modelopt, dtype: str) -> None:
    network, stored = round_by_modelopt(checkpoint, *pairs, dtype=dtype)
    graphs = qdq_graphs(stored)
    engine = OnnxRuntimeEngine(graphs.__getitem__, description=checkpoint.description, precision=stored.precision)
    rounded = TorchEngine(network)
    test, golden = (rounded.encode(pictures) for pictures in pairs)
    halves = rounded.prepare_golden(golden)
    for found, wanted in zip(engine.prepare_golden(golden), halves, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(engine.compare(test, halves), rounded.compare(test, halves), atol=1e-4)
    # Values that lie between two steps fall to either side, the more the deeper a network is; here it is not deep yet.
    assert np.isclose(engine.encode(pairs[0])[-1], test[-1], rtol=1e-3, atol=1e-4).mean() > 0.9
    np.testing.assert_allclose(engine.score(*pairs), rounded.score(*pairs), atol=tolerance("int8"))
    graph = onnx.load_from_string(graphs["pair.onnx"]).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("DequantizeLinear") > operators.count("QuantizeLinear") > 0
    weights = [each for each in graph.initializer if each.data_type == KINDS[dtype] and len(each.dims) > 1]
    assert len(weights) >= len(stored.layers)


def test_layers_of_two_formats_stand_side_by_side(checkpoint, pairs, round_by_modelopt) -> None:
    _, stored = round_by_modelopt(checkpoint, *pairs)
    some = {"head.layers.0": "fp8_e4m3fn", "pyramid.fuse.0": "fp8_e4m3fn"}
    mixed = replace(stored, layers={**stored.layers, **some})
    graphs = qdq_graphs(mixed)
    assert mixed.precision == "fp8+int8"
    kinds = {each.data_type for each in onnx.load_from_string(graphs["comparator.onnx"]).graph.initializer}
    assert kinds >= {TensorProto.INT8, TensorProto.FLOAT8E4M3FN}
    assert build_quantized(mixed)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["timm/tf_efficientnet_lite0", "timm/test_resnet"])
def test_a_relu_in_front_of_a_rounding_to_fp8_counts(
    make_checkpoint, pairs, round_by_modelopt, monkeypatch, backbone: str
) -> None:
    # Of these untrained networks a value on the other side of a step makes another score: the gate is for trained ones.
    monkeypatch.setattr(qdq, "check_parity", lambda *_, **__: None)
    network, stored = round_by_modelopt(make_checkpoint(backbone=backbone), *pairs, dtype="fp8_e4m3fn")
    engine = OnnxRuntimeEngine(qdq_graphs(stored).__getitem__, description=stored.description, precision="fp8")
    found, wanted = engine.encode(pairs[0])[-1], TorchEngine(network).encode(pairs[0])[-1]
    assert np.isclose(found, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max()).mean() > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"difference_module": "euclidean"}, {"num_golden": 2}])
def test_distances_and_several_goldens(make_checkpoint, round_by_modelopt, changes: dict[str, Any]) -> None:
    checkpoint = make_checkpoint(**changes)
    goldens, shape = checkpoint.description.num_golden, checkpoint.description.layout.shape
    generator = np.random.default_rng(2)
    test = generator.integers(0, 256, (2, *shape), dtype=np.uint8)
    golden = generator.integers(0, 256, (2, *((goldens,) if goldens > 1 else ()), *shape), dtype=np.uint8)
    network, stored = round_by_modelopt(checkpoint, test, golden)
    engine = OnnxRuntimeEngine(qdq_graphs(stored).__getitem__, description=checkpoint.description)
    np.testing.assert_allclose(engine.score(test, golden), TorchEngine(network).score(test, golden), rtol=0.1, atol=0.1)
