from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from changenet.model.network import ChangeNet

LITE = "timm/tf_efficientnet_lite0"
SIZE = (32, 48)


@pytest.fixture
def make_network() -> Callable[..., ChangeNet]:
    """Build a small network with seeded weights and lively outputs, in evaluation mode."""

    def make(**changes: Any) -> ChangeNet:
        torch.manual_seed(0)
        settings = {"image_size": SIZE, "embed_dim": 8, "embed_dec": 6, **changes}
        network = ChangeNet(**settings)
        # Real batch statistics: with fresh ones the signal fades and all pairs give nearly the same output.
        norms = [each for each in network.modules() if isinstance(each, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
        momentum = [norm.momentum for norm in norms]
        with torch.no_grad():
            for norm in norms:
                norm.momentum = 1.0
            network.train()(*torch.randn(2, 4, 3, *network.image_size))
            for norm, value in zip(norms, momentum, strict=True):
                norm.momentum = value
        return network.eval()

    return make


@pytest.fixture
def pictures() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Return (test, golden): seeded normalised noise (B, 3, H, W)."""

    def make(batch: int = 2, size: tuple[int, int] = SIZE, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        test, golden = torch.randn(2, batch, 3, *size, generator=generator)
        return test, golden

    return make
