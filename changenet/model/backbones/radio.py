"""C-RADIO encoders: NVIDIA's agglomerative vision transformers, made for pictures of any size up to 2048 pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from changenet.model.backbones.adapter import vit_encoder
from changenet.model.backbones.registry import Backbone, Request, register
from changenet.model.backbones.resampling import resample_grid, square_grid
from changenet.model.backbones.vit import PATCH, PlainVit, as_tokens
from changenet.torchvision_compat import timm

GRID = 128  # positions a side
SMALLEST_AREA = 0.1  # of the grid, that a training sample sees
WIDEST_ASPECT = 4 / 3
DROPPED = 0.1  # training samples that see no positions at all
ADAPTER_NORM_EPS = 1e-5
TokenNorm = partial(nn.LayerNorm, eps=1e-6)

_WRAPPERS = re.compile(r"^(?:radio_model\.|base_model\.|radio\.|model\.)+")
_NAMES = {
    "patch_generator.pos_embed": "position_grid",
    "patch_generator.embedder.weight": "embed.weight",
    "patch_generator.cls_token.token": "class_tokens",
}


@dataclass(frozen=True)
class RadioSettings:
    """How the variants differ.

    Args:
        width: D, of a token.
        depth: Blocks.
        heads: Attention heads.
        class_tokens: One a teacher; registers fill them up to a multiple of `token_multiple`.
        token_multiple: See there.
        summary: How many class tokens, from the first, make the summary vector.
        mlp_norm: Normalise the hidden layer of each block's feed-forward network.
    """

    width: int
    depth: int
    heads: int
    class_tokens: int = 4
    token_multiple: int = 8
    summary: int = 3
    mlp_norm: bool = False

    @property
    def extra(self) -> int:
        """Class tokens and registers together."""
        return self.class_tokens + self.token_multiple - self.class_tokens % self.token_multiple


_huge = partial(RadioSettings, width=1280, depth=32, heads=16, token_multiple=16, mlp_norm=True)
RADIO_SETTINGS = {
    "c_radio_v2_vit_base_patch16_224": RadioSettings(width=768, depth=12, heads=12),
    "c_radio_v2_vit_large_patch16_224": RadioSettings(width=1024, depth=24, heads=16),
    "c_radio_v2_vit_huge_patch16_224": RadioSettings(width=1280, depth=32, heads=16),
    "c_radio_p1_vit_huge_patch16_224_mlpnorm": _huge(class_tokens=3),
    "c_radio_p2_vit_huge_patch16_224_mlpnorm": _huge(summary=4),
    "c_radio_p3_vit_huge_patch16_224_mlpnorm": _huge(),
}


@register(*RADIO_SETTINGS)
def build_radio(name: str, request: Request) -> Backbone:
    """Build the variant `name`."""
    return vit_encoder(RadioVit(RADIO_SETTINGS[name]), request, norm_eps=ADAPTER_NORM_EPS)


class RadioVit(PlainVit):
    """The transformer.

    Positions come from a learned grid. In evaluation the whole grid is shrunk to the picture's; in training each sample
    sees a random window of it, so that no place of a picture is tied to a code.
    """

    def __init__(self, settings: RadioSettings) -> None:
        super().__init__()
        self.width, self.depth, self.extra, self.patch = settings.width, settings.depth, settings.extra, PATCH
        self.summary = settings.summary
        self.vector_width = settings.summary * settings.width
        self.embed = nn.Conv2d(3, settings.width, kernel_size=PATCH, stride=PATCH, bias=False)
        self.position_grid = nn.Parameter(torch.empty(1, GRID * GRID, settings.width))
        self.class_tokens = nn.Parameter(torch.empty(settings.extra, settings.width))
        self.blocks = nn.ModuleList(
            [
                timm.models.vision_transformer.Block(
                    settings.width,
                    settings.heads,
                    qkv_bias=True,
                    norm_layer=TokenNorm,
                    mlp_layer=_normed_mlp if settings.mlp_norm else timm.layers.Mlp,
                )
                for _ in range(settings.depth)
            ]
        )
        for code in (self.position_grid, self.class_tokens):
            nn.init.normal_(code, std=settings.width**-0.5)
        self.blocks.apply(timm.models.vision_transformer.init_weights_vit_timm)

    def tokens(self, picture: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return class tokens, registers and patch tokens, (B, extra + N, D); there is no rotary code."""
        patches = as_tokens(self.embed(picture))
        size = self.grid_size(picture)
        codes = self._random_codes(patches.shape[0], size) if self.training else self._codes(size)
        patches = patches + codes
        return torch.cat([self.class_tokens.expand(patches.shape[0], -1, -1), patches], dim=1), None

    def run(self, tokens: Tensor, blocks: Iterable[int], rotary: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return the tokens after some of the blocks."""
        for index in blocks:
            tokens = self.blocks[index](tokens)
        return tokens

    def vector(self, tokens: Tensor) -> Tensor:
        """Return the summary: the first class tokens one after the other."""
        return tokens[:, : self.summary].flatten(1)

    def extra_tokens(self) -> tuple[nn.Parameter, ...]:
        """Return class tokens and registers."""
        return (self.class_tokens,)

    def weight_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of TAO's or Hugging Face's files under our names."""
        named = {}
        for name, tensor in tensors.items():
            bare = _WRAPPERS.sub("", name).replace("grandma", "gamma")
            ours = _NAMES.get(bare, bare)
            # There it is a linear layer on the pixels of a patch, channel after channel.
            is_kernel = ours == "embed.weight" and tensor.ndim == 2
            named[ours] = tensor.reshape(len(tensor), 3, PATCH, -1) if is_kernel else tensor
        return named

    def interpolated(self, name: str, tensor: Tensor) -> Tensor | None:
        """Return a position grid of another size as this transformer has it."""
        grid = square_grid(tensor) if name == "position_grid" else None
        return None if grid is None else resample_grid(grid, (GRID, GRID)).flatten(1, 2)

    def _grid(self) -> Tensor:
        return torch.unflatten(self.position_grid, 1, (GRID, GRID)).permute(0, 3, 1, 2)

    def _codes(self, size: tuple[int, int]) -> Tensor:
        """Return the position codes (1, N, D) in evaluation."""
        side = max(size)
        shrunk = F.interpolate(self._grid(), size=(side, side), mode="bilinear", align_corners=True)
        return as_tokens(shrunk[:, :, : size[0], : size[1]])

    def _random_codes(self, batch: int, size: tuple[int, int]) -> Tensor:
        """Return the position codes (B, N, D) in training: a window of the grid each, or zeros."""
        device, side = self.position_grid.device, max(size)
        scale = _uniform(batch, math.sqrt(SMALLEST_AREA), 1, device)
        stretch = _uniform(batch, -math.log(WIDEST_ASPECT), math.log(WIDEST_ASPECT), device).div(2).exp()
        extent = torch.stack([scale * stretch, scale / stretch]).clamp(max=1)  # (2, B): x, y
        corner = torch.rand(2, batch, device=device) * (1 - extent)
        steps = torch.linspace(0, 1, side, device=device)
        x, y = (corner[..., None] + extent[..., None] * steps) * 2 - 1  # (B, side) each
        x, y = x[:, : size[1]], y[:, : size[0]]
        places = torch.stack(
            [x[:, None, :].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])], dim=-1
        )  # (B, rows, columns, 2)
        # One grid for all samples: they are read from it as one tall picture.
        codes = F.grid_sample(self._grid(), places.flatten(0, 1)[None], mode="bilinear", align_corners=True)
        codes = torch.unflatten(codes[0].flatten(1), 1, (batch, -1)).permute(1, 2, 0)
        kept = torch.rand(batch, 1, 1, device=device) >= DROPPED
        return codes * kept


def _normed_mlp(*sizes: int, **options: Any) -> nn.Module:
    """Return a feed-forward network whose hidden layer is normalised, with another epsilon than the tokens."""
    mlp: nn.Module = timm.layers.Mlp(*sizes, **{**options, "norm_layer": nn.LayerNorm})
    return mlp


def _uniform(count: int, low: float, high: float, device: torch.device) -> Tensor:
    return low + (high - low) * torch.rand(count, device=device)
