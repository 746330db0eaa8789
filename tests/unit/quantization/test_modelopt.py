"""Layers rounded to 8 bits by ModelOpt: ranges from both pictures, saved and restored exactly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from changenet.engines import load_engine
from changenet.engines.torch import TorchEngine
from changenet.errors import CheckpointError
from changenet.quantization.file import build_quantized, save_quantized
from changenet.training.checkpoint import build_network


@pytest.mark.parametrize(("dtype", "entropy"), [("int8", False), ("int8", True), ("fp8_e4m3fn", False)])
def test_the_file_gives_the_scores_of_the_quantized_network(
    checkpoint, pairs, round_by_modelopt, tmp_path: Path, dtype, entropy
) -> None:
    network, stored = round_by_modelopt(checkpoint, *pairs, dtype=dtype, entropy=entropy)
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


def test_units_that_died_in_training_take_no_steps_from_the_others(make_checkpoint, pairs, round_by_modelopt) -> None:
    checkpoint = make_checkpoint(dead_units=2)
    network, _ = round_by_modelopt(checkpoint, *pairs)
    wanted = TorchEngine(build_network(checkpoint)).score(*pairs)
    assert np.ptp(wanted) > 0.2
    assert np.abs(TorchEngine(network).score(*pairs) - wanted).max() < 0.05


def test_the_ranges_come_from_tests_and_goldens(checkpoint, round_by_modelopt) -> None:
    dark, bright = np.zeros((2, 3, 32, 32), np.uint8), np.full((2, 3, 32, 32), 255, np.uint8)
    name = "backbone.model.conv_stem.input_quantizer._amax"
    both = [float(round_by_modelopt(checkpoint, *pair)[1].state[name]) for pair in ((dark, bright), (bright, dark))]
    assert both == pytest.approx([2.64, 2.64], abs=0.01)  # white, whichever of the two it is
    assert float(round_by_modelopt(checkpoint, dark, dark)[1].state[name]) == pytest.approx(2.118, abs=0.01)


def test_a_layer_that_never_runs_is_left_alone(make_checkpoint, pairs, round_by_modelopt) -> None:
    checkpoint = make_checkpoint(learnable_difference_modules=2)
    _, stored = round_by_modelopt(checkpoint, *pairs)
    assert "pyramid.difference.1.mix" in stored.layers
    assert "pyramid.difference.3.mix" not in stored.layers
    build_quantized(stored)


def test_tensors_that_do_not_fit_are_one_line(checkpoint, pairs, round_by_modelopt) -> None:
    _, stored = round_by_modelopt(checkpoint, *pairs)
    without = {name: each for name, each in stored.state.items() if name != "head.layers.0.weight"}
    with pytest.raises(CheckpointError, match="do not fit"):
        build_quantized(replace(stored, state=without))
    with pytest.raises(CheckpointError, match=r"no\.such"):
        build_quantized(replace(stored, layers={"no.such": "int8"}))
