"""Graphs in int8: the same decisions, the same numbers along both roads, and ranges from tests and goldens alike."""

from typing import Any

import numpy as np
import onnx
import pytest
from torch import nn

from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.export.graphs import assemble
from changenet.export.int8 import Observer, quantizable, quantize_parts
from changenet.export.trace import Parts, trace_parts
from changenet.training.checkpoint import build_network


def layers_of(checkpoint: Any) -> set[str]:
    return {name for name, module in build_network(checkpoint).named_modules() if quantizable(module)}


def engine(checkpoint: Any, parts: Parts) -> OnnxRuntimeEngine:
    graphs = {name: graph.SerializeToString() for name, graph in assemble(parts).items()}
    return OnnxRuntimeEngine(graphs.__getitem__, description=checkpoint.description)


def operators(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


@pytest.fixture(scope="module")
def quantized(checkpoint, parts, pairs_of_module) -> tuple[Parts, set[str]]:
    return quantize_parts(parts, layers_of(checkpoint), [pairs_of_module])


@pytest.fixture(scope="module")
def pairs_of_module() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(11)
    test, golden = generator.integers(0, 256, (2, 5, 3, 32, 32), dtype=np.uint8)
    return test, golden


def test_scores_stay_close_and_both_roads_give_the_same(checkpoint, parts, quantized, pairs_of_module) -> None:
    floats, ours = engine(checkpoint, parts), engine(checkpoint, quantized[0])
    wanted, found = floats.score(*pairs_of_module), ours.score(*pairs_of_module)
    assert 0 < np.abs(found - wanted).max() < 0.1
    network = checkpoint.description.network
    mean, std = (np.array(network[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    normalised = [((picture / 255 - mean) / std).astype(np.float32) for picture in pairs_of_module]
    np.testing.assert_allclose(ours.scores(ours.pair(*normalised)), found, atol=1e-3)


def test_every_layer_is_found_and_the_graphs_get_smaller(checkpoint, parts, quantized) -> None:
    made, done = quantized
    assert done == layers_of(checkpoint)
    assert made.encoder.ByteSize() < 0.5 * parts.encoder.ByteSize()
    for graph, count in ((made.encoder, 20), (made.golden, 4), (made.comparator, 15)):
        assert graph is not None
        onnx.checker.check_model(graph)
        assert operators(graph).count("QuantizeLinear") >= count / 2
        assert (
            len([weight for weight in graph.graph.initializer if weight.data_type == onnx.TensorProto.INT8])
            >= count / 2
        )


def test_only_the_layers_that_are_asked_for(parts, pairs_of_module) -> None:
    made, done = quantize_parts(parts, {"pyramid.difference.1.golden_half"}, [pairs_of_module])
    assert done == {"pyramid.difference.1.golden_half"}
    assert made.encoder is parts.encoder
    assert made.comparator is parts.comparator
    assert operators(made.golden).count("Conv") == 4
    quantized = [weight.name for weight in made.golden.graph.initializer if weight.data_type == onnx.TensorProto.INT8]
    assert any("difference.1.golden_half" in name for name in quantized)
    assert not any("difference.0" in name for name in quantized)


@pytest.mark.parametrize("entropy", [False, True])
def test_the_ranges_come_from_tests_and_goldens(parts, pairs_of_module, monkeypatch, entropy: bool) -> None:
    seen: dict[str, dict[str, tuple[float, float]]] = {}
    ranges = Observer.ranges

    def remember(self: Observer) -> dict[str, tuple[float, float]]:
        found = ranges(self)
        seen[",".join(found)] = found
        return found

    monkeypatch.setattr(Observer, "ranges", remember)
    shape = (2, 3, 32, 32)
    dark, bright = np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)
    layers = {"backbone.model.conv_stem", "pyramid.difference.0.golden_half", "pyramid.difference.0.test_half"}
    for test, golden in ((dark, bright), (bright, dark)):
        seen.clear()
        quantize_parts(parts, layers, [(test, golden)], entropy=entropy)
        known = {name: limits for found in seen.values() for name, limits in found.items()}
        if not entropy:
            low, high = known["normalised"]
            assert low == pytest.approx(-2.118, abs=0.01)  # black, of the one
            assert high == pytest.approx(2.64, abs=0.01)  # white, of the other
        assert {"features_0", "golden_0", "test_0"} <= set(known)
        if not entropy:  # each side of the comparison saw its own picture
            assert known["test_0"] != known["features_0"]


def test_depthwise_convolutions_stay_floats() -> None:
    assert quantizable(nn.Conv2d(8, 4, 3))
    assert quantizable(nn.Linear(4, 4))
    assert not quantizable(nn.Conv2d(8, 8, 3, groups=8))
    assert not quantizable(nn.BatchNorm2d(8))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"difference_module": "euclidean"}, {"num_golden": 2}])
def test_distances_and_several_goldens(make_checkpoint, changes: dict[str, Any]) -> None:
    checkpoint = make_checkpoint(**changes)
    goldens, shape = checkpoint.description.num_golden, checkpoint.description.layout.shape
    generator = np.random.default_rng(2)
    test = generator.integers(0, 256, (2, *shape), dtype=np.uint8)
    golden = generator.integers(0, 256, (2, *((goldens,) if goldens > 1 else ()), *shape), dtype=np.uint8)
    parts = trace_parts(build_network(checkpoint))
    made, done = quantize_parts(parts, layers_of(checkpoint), [(test, golden)])
    assert done
    wanted, found = (engine(checkpoint, each).score(test, golden) for each in (parts, made))
    np.testing.assert_allclose(found, wanted, rtol=0.2, atol=0.1)
