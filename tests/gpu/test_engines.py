"""Engines on a GPU: PyTorch in two precisions, and ONNX Runtime's CUDA provider with outputs that stay there."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.engines.torch import TorchEngine
from changenet.export.graphs import export_graphs
from changenet.model.merging import merged
from changenet.model.network import ChangeNet

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module")
def network() -> ChangeNet:
    torch.manual_seed(0)
    network = ChangeNet(image_size=(64, 64), embed_dim=16)
    with torch.no_grad():
        network.train()(*torch.randn(2, 8, 3, 64, 64))
    return merged(network)


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    test, golden = np.random.default_rng(1).integers(0, 256, (2, 5, 3, 64, 64), dtype=np.uint8)
    return test, golden


def test_pytorch_agrees_with_the_cpu(network: ChangeNet, pairs: tuple[np.ndarray, np.ndarray]) -> None:
    wanted = TorchEngine(copy.deepcopy(network)).score(*pairs)
    for precision, allowed in (("fp32", 1e-4), ("bf16", 0.05)):
        engine = TorchEngine(copy.deepcopy(network), device="cuda", precision=precision)
        assert engine.memory_bytes > 0
        np.testing.assert_allclose(engine.score(*pairs), wanted, atol=allowed)


def test_onnx_runtime_keeps_features_on_the_gpu(network: ChangeNet, pairs: tuple[np.ndarray, np.ndarray]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime without CUDA")
    graphs = export_graphs(copy.deepcopy(network))
    description: Any = SimpleNamespace(difference_module="learnable", network={})
    engine = OnnxRuntimeEngine(graphs.__getitem__, description=description, device="cuda")
    assert engine.device == "CUDAExecutionProvider"
    wanted = TorchEngine(copy.deepcopy(network)).score(*pairs)
    np.testing.assert_allclose(engine.score(*pairs), wanted, atol=1e-4)
    halves = engine.prepare_golden(engine.encode(pairs[1]))
    np.testing.assert_allclose(engine.scores(engine.compare(engine.encode(pairs[0]), halves)), wanted, atol=1e-4)
