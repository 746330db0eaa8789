"""How two pyramids are compared: a learned difference a level, accumulated from coarse to fine, and fused.

Levels are ordered coarsest first everywhere in this module: that is the order in which they are used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from changenet.model.golden_fusion import GoldenFusion


class DifferenceModule(nn.Module):
    """The learned difference of one level.

    It is a convolution over the channels of test and golden together, written as one convolution for each so that the
    golden's half can be computed ahead and kept; the sum is exact.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.test_half = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.golden_half = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.mix = nn.Conv2d(width, width, kernel_size=3, padding=1)
        initialise_as_one([self.test_half, self.golden_half])
        with torch.no_grad():
            # A fresh network starts from the difference of the pictures, which it would have to find otherwise.
            self.golden_half.weight.copy_(-self.test_half.weight)

    def forward(self, test: Tensor, golden_half: Tensor) -> Tensor:
        """Return the difference of a test level (B, E, H, W) and what `golden_half` made of the golden's.

        Halves (B, E, H, W) give (B, E, H, W); halves of N goldens (B, N, E, H, W) give (B * N, E, H, W).
        """
        test_half = self.test_half(test)
        if golden_half.ndim == 5:
            joined = F.relu(test_half.unsqueeze(1) + golden_half).flatten(0, 1)
        else:
            joined = F.relu(test_half + golden_half)
        return F.relu(self.mix(self.norm(joined)))


class DifferencePyramid(nn.Module):
    """Projects pyramid levels to a common width and turns the levels of test and golden into one difference map.

    Args:
        widths: Channels of the encoder's levels, finest first.
        embed_dim: E, the common width.
        levels: How many levels take part, counted from the coarsest (`learnable_difference_modules`). The others exist,
            because checkpoints hold them, but are neither computed nor trained.
        fusion_size: Height and width of the difference map; None = those of the finest level that takes part.
        align_corners: How maps are resized.
        golden_sizes: Height and width of the encoder's levels, finest first, to compare with several goldens; None for
            one golden.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        embed_dim: int,
        levels: int,
        fusion_size: tuple[int, int] | None = None,
        align_corners: bool = False,
        golden_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.levels = levels
        self.fusion_size = fusion_size
        self.align_corners = align_corners
        self.project = nn.ModuleList([nn.Conv2d(width, embed_dim, kernel_size=1) for width in reversed(widths)])
        self.difference = nn.ModuleList([DifferenceModule(embed_dim) for _ in widths])
        # A 1 x 1 convolution over the resized levels together; a part a level, so that each runs before it is resized.
        self.fuse = nn.ModuleList(
            [nn.Conv2d(embed_dim, embed_dim, kernel_size=1, bias=level == 0) for level in range(levels)]
        )
        initialise_as_one([part for part in self.fuse if isinstance(part, nn.Conv2d)])
        self.fuse_norm = nn.BatchNorm2d(embed_dim)
        self.golden_fusion: nn.ModuleList | None = None
        if golden_sizes is not None:
            self.golden_fusion = nn.ModuleList(
                [GoldenFusion(width=embed_dim, size=size) for size in reversed(golden_sizes)]
            )
        for parts in (self.project, self.difference, self.golden_fusion or ()):
            for left_out in parts[levels:]:
                left_out.requires_grad_(False)

    def embed(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the levels that take part, projected: (B, E, H_i, W_i), coarsest first; `maps` come finest first."""
        coarsest_first = list(reversed(maps))[: self.levels]
        return tuple(project(each) for project, each in zip(self.project, coarsest_first, strict=False))

    def prepare_golden(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the golden's half of each level's first convolution."""
        return tuple(
            cast("DifferenceModule", module).golden_half(each)
            for module, each in zip(self.difference, features, strict=False)
        )

    def forward(self, test_features: Sequence[Tensor], golden_halves: Sequence[Tensor]) -> Tensor:
        """Return the difference map (B, E, H, W); several goldens are the second dimension of their halves."""
        size = self.fusion_size or (test_features[-1].shape[2], test_features[-1].shape[3])
        carried: Tensor | None = None
        fused: Tensor | None = None
        for level in range(self.levels):
            difference = self.difference[level](test_features[level], golden_halves[level])
            if carried is not None:
                difference = difference + self._resize(carried, (difference.shape[2], difference.shape[3]))
            carried = difference
            if self.golden_fusion is not None:
                goldens = golden_halves[level].shape[1]
                by_pair = difference.reshape(-1, goldens, *difference.shape[1:])
                difference = self.golden_fusion[level](by_pair)
            part = self._resize(self.fuse[level](difference), size)
            fused = part if fused is None else fused + part
        out: Tensor = self.fuse_norm(fused)
        return out

    def _resize(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        if (values.shape[2], values.shape[3]) == size:
            return values
        return F.interpolate(values, size=size, mode="bilinear", align_corners=self.align_corners)


def initialise_as_one(parts: Sequence[nn.Conv2d]) -> None:
    """Initialise convolutions whose outputs are added like the single one (PyTorch's default) they stand for."""
    fan_in = sum(part.weight[0].numel() for part in parts)
    bound = 1 / math.sqrt(fan_in)
    with torch.no_grad():
        for part in parts:
            part.weight.uniform_(-bound, bound)
            if part.bias is not None:
                part.bias.uniform_(-bound, bound)
