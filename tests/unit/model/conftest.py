from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from changenet.model.backbones import Backbone, Request
from changenet.model.backbones.adapter import vit_encoder
from changenet.model.backbones.dinov3 import dinov3
from changenet.model.backbones.nvdinov2 import nvdinov2
from changenet.model.backbones.radio import RadioSettings, RadioVit
from changenet.model.backbones.registry import register
from changenet.model.catalogue import CATALOGUE, BackboneFacts
from changenet.model.network import ChangeNet

LITE = "timm/tf_efficientnet_lite0"
SIZE = (32, 48)


TINY_DINO = {"embed_dim": 32, "depth": 4, "num_heads": 2}


@register("tiny_radio", "tiny_nvdinov2", "tiny_dinov3")
def build_tiny(name: str, request: Request) -> Backbone:
    """Build an encoder as the big ones are, as small as tests want it, with lively residuals."""
    match name:
        case "tiny_radio":
            settings = RadioSettings(width=32, depth=4, heads=2, class_tokens=3, token_multiple=4, mlp_norm=True)
            backbone = vit_encoder(RadioVit(settings), request)
        case "tiny_nvdinov2":
            backbone = nvdinov2(request, mlp_ratio=4, **TINY_DINO)
        case _:
            backbone = dinov3("vit_small_patch16_dinov3", request, **TINY_DINO)
    for part, parameter in backbone.named_parameters():
        if "gamma" in part or part.endswith(".scale"):
            torch.nn.init.constant_(parameter, 0.5)
    return backbone


@pytest.fixture
def tiny_vits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the catalogue know the tiny encoders."""
    for name, patch in (("tiny_radio", 16), ("tiny_nvdinov2", 14), ("tiny_dinov3", 16)):
        facts = BackboneFacts(
            name,
            "vit",
            "radio",  # any module: the builder is registered already
            side_multiple=32,
            vector_multiple=patch,
            strides=(4, 8, 16, 32),
            widths=(32,) * 4,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
        )
        monkeypatch.setitem(CATALOGUE, name, facts)


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
