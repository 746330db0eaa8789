"""A trained network with fewer steps that computes the same: what two linear steps in a row do, one does.

Only for inference: the merged network has other weights, and training would go another way.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from changenet.model.difference import DifferenceModule, DifferencePyramid

if TYPE_CHECKING:
    from changenet.model.network import ChangeNet


class GoldenHalf(nn.Conv2d):
    """A golden's convolution over an encoder's own level, and what the biases of two merged projections add to it."""

    def __init__(self, weight: Tensor, offset: Tensor) -> None:
        width, channels = weight.shape[:2]
        super().__init__(channels, width, kernel_size=3, padding=1, bias=False)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("offset", offset)
        self.offset: Tensor

    def forward(self, level: Tensor) -> Tensor:
        """Return the golden's half (B, E, H, W) of a level (B, C, H, W)."""
        return super().forward(level) + self.offset


@torch.no_grad()
def merged(network: ChangeNet, *, in_place: bool = False) -> ChangeNet:
    """Return a copy, or the network itself, in evaluation mode, that gives the same outputs; what `encode` returns may be wider or narrower.

    A level's projection goes into the first convolutions of its comparison where that saves work: always for levels that
    are narrower than the common width. The norm after the fusion goes into the fusion, a head's norms into the layers behind them.

    Args:
        network: Of floats.
        in_place: Change the network instead of a copy of it.
    """
    copied = (network if in_place else copy.deepcopy(network)).eval()
    pyramid = copied.pyramid
    if pyramid is not None:
        sizes = list(reversed(copied.backbone.level_sizes(copied.image_size)))
        for level in range(pyramid.levels):
            _merge_projection(pyramid, level, sizes[level])
        _merge_norm(pyramid)
    _merge_head(copied.head.layers)
    return copied


def _merge_projection(pyramid: DifferencePyramid, level: int, size: tuple[int, int]) -> None:
    project = cast("nn.Conv2d", pyramid.project[level])
    difference = cast("DifferenceModule", pyramid.difference[level])
    wide, narrow = project.out_channels, project.in_channels
    if 9 * narrow > narrow + 9 * wide:
        return
    test, golden = difference.test_half, difference.golden_half
    # Both biases go to the golden's side, which is computed once a golden. Nothing is projected beyond the edge, so
    # they count less there: what they add is a map.
    assert project.bias is not None
    bias = project.bias.double().view(1, wide, 1, 1).expand(-1, -1, *size)
    offset = F.conv2d(bias, test.weight.double() + golden.weight.double(), padding=1).float()
    together = nn.Conv2d(narrow, wide, kernel_size=3, padding=1)
    together.weight.copy_(_behind(test.weight, project.weight))
    together.bias = test.bias
    difference.test_half = together
    difference.golden_half = GoldenHalf(_behind(golden.weight, project.weight), offset)
    pyramid.project[level] = nn.Identity()


def _behind(weight: Tensor, projection: Tensor) -> Tensor:
    """Return the weight of one convolution that does what a projection (1 x 1) and then a convolution do."""
    return torch.einsum("oemn,ec->ocmn", weight.double(), projection[:, :, 0, 0].double()).float()


def _merge_norm(pyramid: DifferencePyramid) -> None:
    parts = [cast("nn.Conv2d", part) for part in pyramid.fuse]
    scale, shift = _affine(pyramid.fuse_norm)
    for part in parts:
        part.weight.mul_(scale.view(-1, 1, 1, 1))
    assert parts[0].bias is not None
    parts[0].bias.copy_(parts[0].bias * scale + shift)
    pyramid.fuse_norm = nn.Identity()  # type: ignore[assignment]


def _merge_head(layers: nn.Sequential) -> None:
    for place, (norm, linear) in enumerate(pairwise(layers)):
        if isinstance(norm, nn.BatchNorm1d) and isinstance(linear, nn.Linear):
            scale, shift = _affine(norm)
            linear.bias.add_(linear.weight @ shift)
            linear.weight.mul_(scale)
            layers[place] = nn.Identity()


def _affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return what a norm multiplies each channel with and what it adds then, (C,) each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale
