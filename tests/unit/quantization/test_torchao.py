"""Weights in 8 bits: the numbers of the file are the numbers that run."""

import pickletools
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from changenet.engines import load_engine
from changenet.errors import CheckpointError
from changenet.quantization import torchao
from changenet.quantization.file import QuantizedCheckpoint, build_quantized, load_model, save_quantized
from changenet.quantization.layers import Rule, candidates, choose_layers
from changenet.training.checkpoint import build_network, load_checkpoint


def quantized(checkpoint: Any, *rules: tuple[str, str]) -> tuple[nn.Module, QuantizedCheckpoint]:
    network = build_network(checkpoint)
    found = candidates(network, torchao.quantizable)
    layers = choose_layers(found, rules=[Rule(*rule) for rule in rules], skip=(), backend="torchao")
    torchao.quantize_weights(network, layers)
    state = torchao.take_apart(network, layers)
    return network, QuantizedCheckpoint(checkpoint.description, "torchao", layers, {}, 0.99, "0" * 64, state=state)


@pytest.mark.parametrize("dtype", ["int8", "fp8_e4m3fn"])
def test_the_file_gives_the_scores_of_the_quantized_network(checkpoint, pairs, tmp_path: Path, dtype: str) -> None:
    network, stored = quantized(checkpoint, ("Linear", dtype), ("head.layers.6", "native"))
    path = str(tmp_path / "quantized_model_torchao.pth")
    save_quantized(path, stored)
    engine, description, bundle = load_engine(path)
    assert (engine.name, engine.precision, bundle) == ("torch", dtype.split("_")[0], None)
    assert description == checkpoint.description
    with torch.inference_mode():
        test, golden = (network.normalise(torch.from_numpy(picture)) for picture in pairs)
        wanted = network.score(network(test, golden)).numpy()
    np.testing.assert_allclose(engine.score(*pairs), wanted, atol=1e-6)
    floats = load_engine_of(checkpoint).score(*pairs)
    assert 0 < np.abs(wanted - floats).max() < 0.1  # quantized, and still the same network


def load_engine_of(checkpoint: Any) -> Any:
    from changenet.engines.torch import TorchEngine

    return TorchEngine.from_checkpoint(checkpoint)


def test_weights_are_stored_in_8_bits_and_nothing_else_changes(checkpoint) -> None:
    _, stored = quantized(checkpoint, ("*", "int8"))
    assert set(stored.layers) == {"head.layers.0", "head.layers.3", "head.layers.6"}
    assert stored.state["head.layers.0.weight.qdata"].dtype == torch.int8
    for name, tensor in checkpoint.state.items():
        if name.removesuffix(".weight") not in stored.layers:
            assert torch.equal(stored.state[name], tensor)


def test_two_formats_in_one_network(checkpoint) -> None:
    _, stored = quantized(checkpoint, ("*", "int8"), ("head.layers.0", "fp8_e4m3fn"))
    assert stored.precision == "fp8+int8"
    assert stored.state["head.layers.0.weight.qdata"].dtype == torch.float8_e4m3fn
    build_quantized(stored)


def test_the_file_holds_tensors_and_plain_values_only(checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "q.pth"
    save_quantized(str(path), quantized(checkpoint, ("*", "int8"))[1])
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    named = {str(argument).split()[0] for code, argument, _ in pickletools.genops(pickled) if code.name == "GLOBAL"}
    assert named <= {"torch", "torch._utils", "collections"}
    assert torch.load(path, weights_only=True)["backend"] == "torchao"


def test_with_a_key_the_file_is_encrypted(checkpoint, tmp_path: Path) -> None:
    path = str(tmp_path / "q.pth")
    stored = quantized(checkpoint, ("*", "int8"))[1]
    save_quantized(path, stored, encryption_key="secret")
    assert Path(path).read_bytes().startswith(b"\x89CHGNET")
    with pytest.raises(CheckpointError, match="wrong encryption key"):
        load_model(path, encryption_key="other")
    found = load_model(path, encryption_key="secret")
    assert isinstance(found, QuantizedCheckpoint)
    assert found.layers == stored.layers


def test_files_that_do_not_fit_are_one_line(checkpoint, tmp_path: Path) -> None:
    stored = quantized(checkpoint, ("*", "int8"))[1]
    path = str(tmp_path / "q.pth")
    save_quantized(path, stored)
    with pytest.raises(CheckpointError, match="is a quantized checkpoint"):
        load_checkpoint(path)
    for name, change in (
        ("head.layers.0.weight.qdata", torch.zeros(2, 2, dtype=torch.int8)),
        ("head.layers.3.weight.scale", torch.zeros(8, 1, dtype=torch.float64)),
    ):
        broken = replace(stored, state={**stored.state, name: change})
        with pytest.raises(CheckpointError, match=f"{name} does not fit"):
            build_quantized(broken)
    with pytest.raises(CheckpointError, match=r"no\.such"):
        build_quantized(replace(stored, layers={"no.such": "int8"}))
    with pytest.raises(CheckpointError, match="'tinyquant'"):
        build_quantized(replace(stored, backend="tinyquant"))
    content = torch.load(path, weights_only=True)
    for change, match in (({"format_version": 99}, "newer"), ({"layers": None}, "damaged")):
        torch.save({**content, **change}, path)
        with pytest.raises(CheckpointError, match=match):
            load_model(path)
