"""Weights of a vision transformer brought to another patch size or another grid of patches."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def resample_kernel(kernel: Tensor, side: int) -> Tensor:
    """Return a patch kernel (D, 3, p, p) as (D, 3, side, side), bicubic."""
    resized = F.interpolate(kernel.float(), size=(side, side), mode="bicubic", align_corners=False)
    return resized.to(kernel.dtype)


def resample_grid(grid: Tensor, size: tuple[int, int], *, surplus: float = 0.0) -> Tensor:
    """Return position codes (1, rows, columns, D) for another number of places, bicubic.

    Args:
        grid: The codes, (1, H, W, D).
        size: Rows and columns that are wanted.
        surplus: Places by which the scale is too large; DINOv2 takes 0.1 to be safe from rounding, and its weights are
            used to it.
    """
    codes = grid.permute(0, 3, 1, 2).float()
    if surplus:
        scales = [(wanted + surplus) / have for wanted, have in zip(size, codes.shape[2:], strict=True)]
        resized = F.interpolate(codes, scale_factor=scales, mode="bicubic", align_corners=False)
    else:
        resized = F.interpolate(codes, size=size, mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).to(grid.dtype)


def resample_codes(codes: Tensor, size: tuple[int, int], *, before: int = 0) -> Tensor | None:
    """Return codes (1, before + n * n, D) of a square grid for a grid of `size`, or None when they form no square.

    Args:
        codes: Those of `before` extra tokens, which stay as they are, then those of the patches row by row.
        size: Rows and columns that are wanted.
        before: How many of them belong to extra tokens.
    """
    grid = square_grid(codes, before=before)
    return None if grid is None else torch.cat([codes[:, :before], resample_grid(grid, size).flatten(1, 2)], dim=1)


def square_grid(positions: Tensor, *, before: int = 0) -> Tensor | None:
    """Return codes (1, before + n * n, D) of a square grid as (1, n, n, D), or None when they form no square.

    Args:
        positions: The codes of `before` extra tokens, then those of the patches row by row.
        before: How many of them belong to extra tokens.
    """
    places = positions.shape[1] - before
    side = math.isqrt(max(places, 0))
    if positions.ndim != 3 or side == 0 or side * side != places:
        return None
    return torch.unflatten(positions[:, before:], 1, (side, side))
