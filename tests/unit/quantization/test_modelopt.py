"""Layers rounded to 8 bits by ModelOpt: ranges from both pictures, saved and restored exactly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from changenet.engines import load_engine
from changenet.engines.torch import TorchEngine
from changenet.errors import CheckpointError
from changenet.quantization import modelopt
from changenet.quantization.file import QuantizedCheckpoint, build_quantized, save_quantized
from changenet.quantization.layers import candidates
from changenet.training.checkpoint import build_network

Pictures = np.ndarray


def quantized(checkpoint: Any, test: Pictures, golden: Pictures, *, dtype: str = "int8", entropy: bool = False) -> Any:
    network = build_network(checkpoint)
    layers = dict.fromkeys(candidates(network, modelopt.quantizable), dtype)

    def run(_: Any) -> None:
        network(*(network.normalise(torch.from_numpy(pictures)) for pictures in (test, golden)))

    done = modelopt.quantize_layers(network, layers, run, entropy=entropy)
    state = modelopt.take_apart(network)
    return network, QuantizedCheckpoint(
        checkpoint.description, "modelopt.pytorch", done, {}, 0.99, "0" * 64, state=state
    )


@pytest.mark.parametrize(("dtype", "entropy"), [("int8", False), ("int8", True), ("fp8_e4m3fn", False)])
def test_the_file_gives_the_scores_of_the_quantized_network(checkpoint, pairs, tmp_path: Path, dtype, entropy) -> None:
    network, stored = quantized(checkpoint, *pairs, dtype=dtype, entropy=entropy)
    path = str(tmp_path / "quantized_model_modelopt.pth")
    save_quantized(path, stored)
    engine, _, _ = load_engine(path)
    assert (engine.name, engine.precision) == ("torch", dtype.split("_")[0])
    wanted = TorchEngine(network).score(*pairs)
    np.testing.assert_allclose(engine.score(*pairs), wanted, atol=1e-6)
    floats = TorchEngine(build_network(checkpoint)).score(*pairs)
    assert 0 < np.abs(wanted - floats).max() < 0.3
    content = torch.load(path, weights_only=True)
    assert "backbone.model.conv_stem.input_quantizer._amax" in content["model_state_dict"]


def test_the_ranges_come_from_tests_and_goldens(checkpoint) -> None:
    dark, bright = np.zeros((2, 3, 32, 32), np.uint8), np.full((2, 3, 32, 32), 255, np.uint8)
    name = "backbone.model.conv_stem.input_quantizer._amax"
    both = [float(quantized(checkpoint, *pair)[1].state[name]) for pair in ((dark, bright), (bright, dark))]
    assert both == pytest.approx([2.64, 2.64], abs=0.01)  # white, whichever of the two it is
    assert float(quantized(checkpoint, dark, dark)[1].state[name]) == pytest.approx(2.118, abs=0.01)


def test_a_layer_that_never_runs_is_left_alone(make_checkpoint, pairs) -> None:
    checkpoint = make_checkpoint(learnable_difference_modules=2)
    _, stored = quantized(checkpoint, *pairs)
    assert "pyramid.difference.1.mix" in stored.layers
    assert "pyramid.difference.3.mix" not in stored.layers
    build_quantized(stored)


def test_tensors_that_do_not_fit_are_one_line(checkpoint, pairs) -> None:
    _, stored = quantized(checkpoint, *pairs)
    without = {name: each for name, each in stored.state.items() if name != "head.layers.0.weight"}
    with pytest.raises(CheckpointError, match="do not fit"):
        build_quantized(replace(stored, state=without))
    with pytest.raises(CheckpointError, match=r"no\.such"):
        build_quantized(replace(stored, layers={"no.such": "int8"}))
