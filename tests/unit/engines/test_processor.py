from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from changenet.engines import onnxruntime as module
from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.engines.processor import has_vnni


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("flags\t\t: fpu avx2 avx_vnni amx_int8\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512bw\n", False),
        ("Features : asimd\n", False),
    ],
)
def test_the_flags_of_linux_tell(text: str, wanted: bool, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text, encoding="utf-8")
    assert has_vnni(path) is wanted


def test_a_system_that_does_not_tell_has_none(tmp_path: Path) -> None:
    assert has_vnni(tmp_path / "nothing") is False


@pytest.mark.parametrize("there", [True, False])
def test_the_exact_kernels_are_asked_for_where_the_usual_ones_are_not(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "has_vnni", lambda: there)
    places = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("in", "out")]
    graph = helper.make_graph([helper.make_node("Relu", ["in"], ["out"])], "one", places[:1], places[1:])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    described: Any = type("Described", (), {"difference_module": "euclidean", "network": {}})()
    files = {"encoder.onnx": content, "comparator.onnx": content}
    engine = OnnxRuntimeEngine(files.__getitem__, description=described)
    options = engine._encoder.get_session_options()
    try:
        asked = options.get_session_config_entry("session.x64quantprecision")
    except RuntimeError:  # was not set
        asked = "0"
    assert asked == ("0" if there else "1")


def test_a_layer_of_floats_behind_one_of_integers_stays_of_floats() -> None:
    weights = np.stack([np.full((1, 3, 3), 1e-3), np.ones((1, 3, 3))]).astype(np.float32)  # no one scale fits both
    nodes = [
        helper.make_node("QuantizeLinear", ["in", "scale", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["rounded", "scale", "zero"], ["floats"]),
        helper.make_node("Conv", ["floats", "weights"], ["sums"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["sums", "fine", "zero"], ["fine sums"]),
        helper.make_node("DequantizeLinear", ["fine sums", "fine", "zero"], ["out"]),
    ]
    shapes = {"in": [1, 1, 4, 4], "out": [1, 2, 4, 4]}
    places = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    constants = {"scale": np.array(0.01, np.float32), "zero": np.array(128, np.uint8), "weights": weights}
    constants["fine"] = np.array(5e-5, np.float32)
    given = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "one", places[:1], places[1:], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    picture = np.random.default_rng(0).uniform(-1, 1, shapes["in"]).astype(np.float32)
    (wanted,) = ReferenceEvaluator(model).run(None, {"in": picture})
    files = dict.fromkeys(("encoder.onnx", "comparator.onnx"), model.SerializeToString())
    described: Any = type("Described", (), {"difference_module": "euclidean", "network": {}})()
    (found,) = OnnxRuntimeEngine(files.__getitem__, description=described).encode(picture)
    np.testing.assert_allclose(found, wanted, atol=6e-5)
