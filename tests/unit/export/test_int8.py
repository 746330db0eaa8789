"""Graphs in int8: the same decisions, the same numbers along both roads, and ranges from tests and goldens alike."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.export.graphs import assemble
from changenet.export.int8 import Observer, quantizable, quantize_parts
from changenet.export.trace import Parts, trace_parts
from changenet.model.merging import merged
from changenet.model.network import ChangeNet
from changenet.quantization.layers import static_candidates
from changenet.training.checkpoint import build_network


def layers_of(checkpoint: Any) -> set[str]:
    return set(static_candidates(build_network(checkpoint), quantizable))


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


def test_what_an_activation_cuts_off_takes_no_steps_from_what_is_left(checkpoint, pairs_of_module) -> None:
    """A convolution that gives far more than the ReLU6 behind it leaves, as the first one of a trained encoder does."""
    network = ChangeNet(**checkpoint.description.network | {"backbone": "timm/tf_efficientnet_lite0"}).eval()
    norm = network.backbone.model.bn1
    with torch.no_grad():
        norm.weight.mul_(400 / norm.weight.abs().max())
    floats = trace_parts(merged(network))
    made, _ = quantize_parts(floats, {"backbone.model.conv_stem"}, [pairs_of_module])
    wanted, found = (_first_features(parts.encoder, pairs_of_module[0]) for parts in (floats, made))
    assert wanted.min() == 0 and wanted.max() == 6 and 1 < wanted.mean() < 5, "cut off on both sides"
    assert len(np.unique(found.round(4))) > 200
    assert np.abs(found - wanted).mean() < 0.1


def _first_features(graph: onnx.ModelProto, pictures: np.ndarray) -> np.ndarray:
    """Return what the first activation leaves of pictures."""
    import onnxruntime

    activation = next(node for node in graph.graph.node if node.op_type == "Clip")
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    copy.graph.output.append(onnx.ValueInfoProto(name=activation.output[0]))
    session = onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run([activation.output[0]], {"normalised": (pictures / 127.5 - 1).astype(np.float32)})[
        0
    ]
    return found


def test_integers_are_summed_as_they_are_on_every_processor(checkpoint, quantized, pairs_of_module) -> None:
    """Where a processor lacks VNNI, ONNX Runtime's usual kernels cut off sums of two products, by tens of per cent."""
    import onnxruntime

    graph = assemble(quantized[0])["encoder.onnx"].SerializeToString()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # floats between the nodes
    emulated = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    wanted = emulated.run(None, {"picture": pairs_of_module[0]})
    for found, level in zip(engine(checkpoint, quantized[0]).encode(pairs_of_module[0]), wanted, strict=True):
        assert np.abs(found - level).mean() < 0.1 * np.abs(level).mean()


def test_units_that_died_in_training_take_no_steps_from_the_others(make_checkpoint, pairs_of_module) -> None:
    checkpoint = make_checkpoint(dead_units=2)
    floats = trace_parts(merged(build_network(checkpoint)))
    made, _ = quantize_parts(floats, layers_of(checkpoint), [pairs_of_module])
    wanted, found = (engine(checkpoint, each).score(*pairs_of_module) for each in (floats, made))
    assert np.ptp(wanted) > 0.2
    assert np.abs(found - wanted).max() < 0.05


def test_the_large_layer_of_a_head_computes_in_integers(checkpoint, pairs_of_module, tmp_path) -> None:
    """In front of a ReLU of floats it would compute in floats, and take its weights out of 8 bits for every batch."""
    import onnxruntime

    network = merged(build_network(checkpoint))
    made, _ = quantize_parts(trace_parts(network), layers_of(checkpoint), [pairs_of_module])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "comparator.onnx")
    graph = assemble(made)["comparator.onnx"].SerializeToString()
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    ran = operators(onnx.load(tmp_path / "comparator.onnx"))
    assert ran.count("QGemm") == 1
    assert len([name for name in ran if name in ("Gemm", "FusedGemm")]) == 2


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
def test_the_ranges_come_from_tests_and_goldens(parts, monkeypatch, entropy: bool) -> None:
    seen: dict[str, tuple[float, float]] = {}
    ranges = Observer.ranges
    monkeypatch.setattr(Observer, "ranges", lambda self: seen.update(found := ranges(self)) or found)
    layers = {"backbone.model.conv_stem", "pyramid.difference.0.golden_half", "pyramid.difference.0.test_half"}

    def ranges_of(test: np.ndarray, golden: np.ndarray) -> dict[str, tuple[float, float]]:
        seen.clear()
        quantize_parts(parts, layers, [(test, golden)], entropy=entropy)
        return dict(seen)

    shape = (2, 3, 32, 32)
    dark, bright = np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)
    alone, both, other = ranges_of(dark, dark), ranges_of(dark, bright), ranges_of(bright, dark)
    assert alone["normalised"][1] < 0
    for found in (both, other):  # the encoder saw black and white, whichever of the two pictures was which
        low, high = found["normalised"]
        assert low < -1.5
        assert high > 1.5
        if not entropy:
            assert (low, high) == pytest.approx((-2.118, 2.64), abs=0.01)
    # Each side of the comparison saw its own picture.
    assert both["test_0"] == alone["test_0"] != other["test_0"]
    assert other["features_0"] == alone["features_0"] != both["features_0"]


def test_depthwise_convolutions_stay_floats() -> None:
    assert quantizable(nn.Conv2d(8, 4, 3))
    assert quantizable(nn.Linear(4, 4))
    assert not quantizable(nn.Conv2d(8, 8, 3, groups=8))
    assert not quantizable(nn.Conv2d(3, 8, 3))
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
