"""Number formats are written into the graph, and the graph still computes what it did."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from changenet.errors import EngineError
from changenet.tensorrt.precision import quantized_format, with_precision
from changenet.tensorrt.rules import check_rules, parse_rules

QUIET = onnxruntime.SessionOptions()
QUIET.log_severity_level = 3


def run(graph: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), QUIET, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def types_of(graph: onnx.ModelProto, operator: str) -> set[int]:
    """Return the types of the outputs of all nodes of a kind."""
    known = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(graph).graph.value_info
    }
    return {known.get(node.output[0], 0) for node in graph.graph.node if node.op_type == operator}


@pytest.fixture(scope="module")
def pair(bundle_folder: Path) -> onnx.ModelProto:
    return onnx.load(bundle_folder / "pair.onnx")


def test_a_lowered_graph_gives_nearly_the_same_output(pair, bundle_folder: Path) -> None:
    generator = np.random.default_rng(5)
    inputs = {f"input_{number}": generator.normal(size=(3, 3, 32, 32)).astype(np.float32) for number in (1, 2)}
    (wanted,) = run(pair, **inputs)
    lowered = with_precision(pair, "fp16")
    onnx.checker.check_model(lowered, full_check=True)
    (found,) = run(lowered, **inputs)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < 0.02
    assert types_of(lowered, "Conv") == {TensorProto.FLOAT16}
    assert types_of(lowered, "ReduceMean") == {TensorProto.FLOAT}
    assert [value.type for value in lowered.graph.input] == [value.type for value in pair.graph.input]
    assert lowered.ByteSize() < 0.7 * pair.ByteSize()  # the weights in 32 bits are gone


def test_32_bits_change_nothing(pair) -> None:
    assert with_precision(pair, "fp32") is pair


def test_the_encoder_takes_bytes_in_every_precision(bundle_folder: Path) -> None:
    encoder = onnx.load(bundle_folder / "encoder.onnx")
    picture = np.random.default_rng(2).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    for found, wanted in zip(
        run(with_precision(encoder, "fp16"), picture=picture), run(encoder, picture=picture), strict=True
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())


def test_rules_decide_for_single_layers_and_the_last_one_wins(pair) -> None:
    rules = parse_rules(["encoder/*: BF16", "encoder/backbone.model.bn1/*:fp16", "comparator/*:fp32"])
    lowered = with_precision(pair, "fp16", rules)
    found = types_of(lowered, "Conv")
    assert found == {TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.FLOAT16}
    mixed = with_precision(pair, "fp32", parse_rules(["comparator/*:fp16"]))
    assert types_of(mixed, "Conv") == {TensorProto.FLOAT, TensorProto.FLOAT16}


def test_a_rule_for_no_layer_names_some_that_there_are(pair) -> None:
    check_rules(parse_rules(["*/backbone.model.bn1/*:fp32"]), [pair])
    with pytest.raises(
        EngineError, match=r"no layer matches 'encoder/backbone.model.bn7'.*There are, for example: .*/"
    ):
        check_rules(parse_rules(["encoder/backbone.model.bn7:fp32"]), [pair])


@pytest.mark.parametrize("text", ["fp16", ":fp16", "layer:int8", "layer:", "layer:half"])
def test_a_rule_has_a_layer_and_a_precision(text: str) -> None:
    with pytest.raises(EngineError, match="Write NAME:PRECISION with fp32, fp16, bf16"):
        parse_rules([text])


def one_matmul(scale: float) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.float32([[scale, 0], [0, 1]]), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
        helper.make_node("Add", ["m", "x"], ["y"], name="sum"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@settings(max_examples=30, deadline=None)
@given(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False))
def test_a_constant_that_16_bits_cannot_hold_stays_in_32(scale: float) -> None:
    (found,) = run(with_precision(one_matmul(scale), "fp16"), x=np.ones((1, 2), np.float32))
    np.testing.assert_allclose(found, [[scale + 1, 2]], rtol=2e-3, atol=1e-3)


def quantized(kind: int, zero: int = 0) -> onnx.ModelProto:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xy"]
    constants = [
        numpy_helper.from_array(np.float32(0.1), "scale"),
        numpy_helper.from_array(np.array(zero, dtype), "zero"),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_the_format_of_quantized_layers_is_read_from_the_graph(pair) -> None:
    assert quantized_format(pair) is None
    assert quantized_format(quantized(TensorProto.INT8)) == "int8"
    assert quantized_format(quantized(TensorProto.FLOAT8E4M3FN)) == "fp8"
    for kind, zero in ((TensorProto.UINT8, 0), (TensorProto.INT8, 3)):
        with pytest.raises(EngineError, match=r"quantized for CPUs.*modelopt\.pytorch"):
            quantized_format(quantized(kind, zero))
