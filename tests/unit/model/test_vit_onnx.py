"""Networks on vision transformers survive the export: any batch size from one file, and the numbers of PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from changenet.export.graphs import export_graphs
from changenet.model.network import ChangeNet

onnxruntime = pytest.importorskip("onnxruntime")
SIDE = 64


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_vits")
@pytest.mark.parametrize("kind", ["learnable", "euclidean"])
@pytest.mark.parametrize("backbone", ["tiny_radio", "tiny_nvdinov2", "tiny_dinov3"])
def test_graphs_of_vision_transformers_agree_at_any_batch(
    backbone: str, kind: str, make_network: Callable[..., ChangeNet]
) -> None:
    side = 70 if (backbone, kind) == ("tiny_nvdinov2", "euclidean") else SIDE
    network = make_network(backbone=backbone, difference_module=kind, image_size=(side, side))
    graph = export_graphs(network)["pair.onnx"].SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7):
        test, golden = torch.randn(2, batch, 3, side, side)
        (ours,) = session.run(None, {"input_1": test.numpy(), "input_2": golden.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(ours, network(test, golden).numpy(), rtol=1e-4, atol=1e-4)
