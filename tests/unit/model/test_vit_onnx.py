"""Networks on vision transformers survive the export: any batch size from one file, and the numbers of PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from changenet.engines.tolerance import FP32
from changenet.export.graphs import export_graphs
from changenet.model.network import ChangeNet

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_vits")
@pytest.mark.parametrize(
    ("backbone", "kind", "side"),
    [
        ("tiny_radio", "learnable", 64),
        ("tiny_nvdinov2", "learnable", 64),
        ("tiny_dinov3", "learnable", 64),
        ("tiny_nvdinov2", "euclidean", 70),  # its positions are interpolated inside the graph
    ],
)
def test_graphs_of_vision_transformers_agree_at_any_batch(
    backbone: str, kind: str, side: int, make_network: Callable[..., ChangeNet]
) -> None:
    network = make_network(backbone=backbone, difference_module=kind, image_size=(side, side))
    graph = export_graphs(network)["pair.onnx"]
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7):
        test, golden = torch.randn(2, batch, 3, side, side)
        (ours,) = session.run(None, {"input_1": test.numpy(), "input_2": golden.numpy()})
        with torch.no_grad():
            wanted = network(test, golden)
        scores = network.score(torch.from_numpy(ours)).numpy()
        np.testing.assert_allclose(scores, network.score(wanted).numpy(), rtol=FP32, atol=FP32)
        # Without AVX-512 sums are made in another order, which moves these logits by 3e-4.
        np.testing.assert_allclose(ours, wanted.numpy(), rtol=1e-3, atol=1e-3)
