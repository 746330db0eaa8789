"""Engines are built here with tensorrt-rtx, which needs no GPU, for one that is elsewhere."""

import hashlib
import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from changenet.errors import CheckpointError, EngineError
from changenet.tensorrt import weights
from changenet.tensorrt.build import BuildSettings, Built, build_plans
from changenet.tensorrt.rules import parse_rules
from changenet.tensorrt.tag import EngineTag, Gpu

package = pytest.importorskip("tensorrt_rtx")

ADA = BuildSettings(capability="8.9", batch=(1, 2, 4))


@pytest.fixture(scope="module")
def graphs(bundle_folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle_folder.glob("*.onnx")}


@pytest.fixture(scope="module")
def built(graphs: dict[str, bytes]) -> Built:
    return build_plans(graphs, ADA)


def test_every_graph_of_a_bundle_becomes_an_engine_with_a_tag(built: Built, graphs: dict[str, bytes]) -> None:
    assert set(built.plans) == {"encoder.engine", "golden.engine", "comparator.engine", "pair.engine"}
    assert all(len(plan) > 10_000 for plan in built.plans.values())
    assert built.tag == EngineTag(
        package="tensorrt_rtx",
        version=package.__version__,
        capability="8.9",
        gpu=None,
        precision="fp32",
        batch=(1, 2, 4),
        sources={name.replace(".onnx", ".engine"): hashlib.sha256(graph).hexdigest() for name, graph in graphs.items()},
    )
    assert EngineTag.from_dict(built.tag.to_dict()) == built.tag


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_16_bits_make_smaller_engines(precision: str, built: Built, graphs: dict[str, bytes]) -> None:
    half = build_plans({"pair.onnx": graphs["pair.onnx"]}, replace(ADA, precision=precision))
    assert half.tag.precision == precision
    assert len(half.plans["pair.engine"]) < len(built.plans["pair.engine"])


def test_rules_may_name_layers_of_any_graph(built: Built, graphs: dict[str, bytes]) -> None:
    two = {name: graphs[name] for name in ("golden.onnx", "comparator.onnx")}
    mixed = build_plans(two, replace(ADA, rules=parse_rules(["comparator/*:fp16"])))
    assert mixed.plans["comparator.engine"] != built.plans["comparator.engine"]
    with pytest.raises(EngineError, match=r"gen_trt_engine\.tensorrt\.layers_precision: no layer matches 'encoder/x'"):
        build_plans(two, replace(ADA, rules=parse_rules(["encoder/x:fp16"])))


def with_weights_beside(graph: bytes) -> dict[str, bytes]:
    """Return a graph and its weights as an export writes them when they are too large for one file."""
    from changenet.export.trace import _take_weights

    model, weights = onnx.load_from_string(graph), bytearray()
    _take_weights(model, weights)
    return {"pair.onnx": model.SerializeToString(), "weights.data": bytes(weights)}


def test_weights_beside_the_graph_reach_the_parser(built: Built, graphs: dict[str, bytes]) -> None:
    apart = with_weights_beside(graphs["pair.onnx"])
    assert len(apart["weights.data"]) > 10_000
    assert set(build_plans(apart, ADA).plans) == {"pair.engine"}
    half = build_plans(apart, replace(ADA, precision="fp16"))
    assert len(half.plans["pair.engine"]) < len(built.plans["pair.engine"])
    for wrong in ({}, {"weights.data": apart["weights.data"][:100]}):
        with pytest.raises(CheckpointError, match=r"weights\.data: holds not all weights of .*, or is missing"):
            build_plans({"pair.onnx": apart["pair.onnx"], "other.data": b"1", **wrong}, ADA)


def test_a_parser_that_takes_no_weights_gets_them_in_the_graph(graphs: dict[str, bytes], monkeypatch) -> None:
    class Parser:
        def parse(self, content: bytes) -> bool:
            self.read = content
            return True

    apart, parser = with_weights_beside(graphs["pair.onnx"]), Parser()
    assert weights.parse(parser, onnx.load_from_string(apart["pair.onnx"]), apart) == (True, [])
    inputs = {f"input_{number}": np.full((2, 3, 32, 32), number, np.float32) for number in (1, 2)}
    found, wanted = (
        onnxruntime.InferenceSession(each).run(None, inputs)[0] for each in (parser.read, graphs["pair.onnx"])
    )
    np.testing.assert_array_equal(found, wanted)
    monkeypatch.setattr(weights, "LIMIT", 10_000)
    with pytest.raises(EngineError, match="Upgrade TensorRT"):
        weights.parse(parser, onnx.load_from_string(apart["pair.onnx"]), apart)


def quantized(kind: int) -> bytes:
    """Return a graph with one product of numbers of 8 bits."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weight = np.random.default_rng(1).integers(-9, 9, (16, 16)).astype(dtype)
    nodes = [
        helper.make_node("QuantizeLinear", ["input_1", "scale", "zero"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["w"], name="dequantize_weight"),
        helper.make_node("MatMul", ["x", "w"], ["output"], name="product"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 16]) for name in ("input_1", "output")]
    constants = {"scale": np.float32(0.05), "zero": np.zeros((), dtype), "weight": weight}
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "pair", values[:1], values[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]).SerializeToString()


@pytest.mark.parametrize(("kind", "precision"), [(TensorProto.INT8, "int8"), (TensorProto.FLOAT8E4M3FN, "fp8")])
def test_a_quantized_graph_keeps_its_own_precision(kind: int, precision: str) -> None:
    graph = {"pair.onnx": quantized(kind)}
    assert [build_plans(graph, replace(ADA, precision=each)).tag.precision for each in ("fp32", precision)] == [
        precision
    ] * 2
    with pytest.raises(EngineError, match=f"is fp16, and the graphs are quantized to {precision}"):
        build_plans(graph, replace(ADA, precision="fp16"))


def test_8_bits_need_a_quantized_graph(graphs: dict[str, bytes]) -> None:
    with pytest.raises(
        EngineError,
        match=r"gen_trt_engine\.tensorrt\.data_type: is int8, and the graphs are not quantized.*changenet quantize",
    ):
        build_plans(graphs, replace(ADA, precision="int8"))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_timing_cache_serves_the_next_build_and_a_strange_one_does_no_harm(graphs: dict[str, bytes], caplog) -> None:
    one = {"golden.onnx": graphs["golden.onnx"]}
    first = build_plans(one, ADA)
    assert first.timing_cache
    assert build_plans(one, ADA, timing_cache=first.timing_cache).timing_cache
    assert not warnings_of(caplog)
    assert build_plans(one, ADA, timing_cache=b"of another program").timing_cache == first.timing_cache


def test_a_static_graph_needs_no_profile(graphs: dict[str, bytes]) -> None:
    from changenet.export.graphs import fix_batch

    model = onnx.load_from_string(graphs["pair.onnx"])
    fix_batch(model, 3)
    assert build_plans({"pair.onnx": model.SerializeToString()}, ADA).plans["pair.engine"]


def test_what_cannot_be_built_is_said_in_one_line(graphs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"nothing for compute capability 3\.5\. It builds for 7\.5, 8\.0, .*12\.0"):
        build_plans(graphs, replace(ADA, capability="3.5"))
    with pytest.raises(CheckpointError, match=r"pair\.onnx: is not an ONNX graph"):
        build_plans({"pair.onnx": b"not a graph"}, ADA)
    model = onnx.load_from_string(graphs["golden.onnx"])
    model.graph.node[0].op_type = "Nothing"
    with pytest.raises(EngineError, match=r"^pcb/golden\.onnx: TensorRT cannot read it: "):
        build_plans({"golden.onnx": model.SerializeToString()}, ADA, folder="pcb")
    with pytest.raises(EngineError, match=r"TensorRT needs an NVIDIA GPU, and there is no cuda:77 here"):
        build_plans(graphs, replace(ADA, capability=None, device="cuda:77"))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="pip install tensorrt-rtx"):
        build_plans(graphs, ADA)
    with pytest.raises(EngineError, match=r"TensorRT is not installed. Install the extra: .*changenet-ray\[gpu\]"):
        build_plans(graphs, replace(ADA, capability=None))


def test_an_engine_runs_only_with_its_version_and_on_its_kind_of_gpu(built: Built, caplog) -> None:
    tag, here = built.tag, Gpu("NVIDIA RTX 4090", "8.9")
    tag.check(version=tag.version, gpu=here, where="pcb.engine")
    assert not warnings_of(caplog)
    with pytest.raises(
        EngineError, match=r"pcb\.engine: built with tensorrt_rtx .*, and 0\.1 is installed\. Build it again"
    ):
        tag.check(version="0.1", gpu=here, where="pcb.engine")
    with pytest.raises(
        EngineError, match=r"for compute capability 8\.9, and this GPU \(H100\) has 9\.0\. Build it again"
    ):
        tag.check(version=tag.version, gpu=Gpu("H100", "9.0"), where="pcb.engine")
    replace(tag, gpu="NVIDIA L4").check(version=tag.version, gpu=here, where="pcb.engine")
    assert "was built on NVIDIA L4 and runs slower on NVIDIA RTX 4090" in caplog.text


@pytest.mark.slow
def test_a_network_with_several_goldens_and_a_distance_become_engines(make_checkpoint) -> None:
    from changenet.export.graphs import export_graphs
    from changenet.training.checkpoint import build_network

    for changes in ({"num_golden": 2, "learnable_difference_modules": 2}, {"difference_module": "euclidean"}):
        network = build_network(make_checkpoint(**changes))
        graphs = export_graphs(network)
        built = build_plans(graphs, replace(ADA, precision="fp16"), goldens=network.num_golden)
        assert set(built.plans) == {name.replace(".onnx", ".engine") for name in graphs}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int8", "fp8_e4m3fn"])
def test_what_modelopt_quantized_becomes_engines(checkpoint, pairs, round_by_modelopt, dtype: str) -> None:
    from changenet.export.qdq import qdq_graphs

    _, rounded = round_by_modelopt(checkpoint, *pairs, dtype=dtype)
    built = build_plans(qdq_graphs(rounded), ADA)
    assert built.tag.precision == dtype.split("_")[0]
    assert len(built.plans) == 4
