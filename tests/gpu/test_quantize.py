"""Candidates of a comparison on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from changenet.data.lights import PictureLayout
from changenet.description import BINARY_CLASSES, ModelDescription, Threshold
from changenet.evaluation.candidate import Candidate
from changenet.evaluation.cost import measure
from changenet.model.network import ChangeNet
from changenet.training.checkpoint import Checkpoint
from ray_jobs.quantize import _on_gpu

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_a_network_is_judged_and_measured_there_too() -> None:
    layout = PictureLayout(lights=("",), width=64, height=64)
    torch.manual_seed(0)
    network = ChangeNet(image_size=(64, 64), embed_dim=16)
    with torch.no_grad():
        network.train()(*torch.randn(2, 8, 3, 64, 64))
    threshold = Threshold(0.5, "recall", 1.0, (0.9, 1.0))
    description = ModelDescription(
        network=network.arguments, layout=layout, threshold=threshold, classes=BINARY_CLASSES
    )
    here = Candidate.in_pytorch(Checkpoint(description, network.state_dict()), "fp32")
    (there,) = _on_gpu([here])
    test, golden = np.random.default_rng(1).integers(0, 256, (2, 5, 3, 64, 64), dtype=np.uint8)
    np.testing.assert_allclose(there.open().score(test, golden), here.open().score(test, golden), atol=1e-4)
    assert (measure(there).pairs_per_second or 0) > 0
