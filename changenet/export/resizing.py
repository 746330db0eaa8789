"""Bilinear resizing as two products with constant matrices: ONNX's `Resize` takes ONNX Runtime far longer on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx.numpy_helper
import torch
from onnxscript import opset18 as op
from torch.nn import functional as F


def resized(values: Any, size: Sequence[int], align_corners: bool, _scales: object = None) -> Any:
    """Return nodes that resize values (B, C, H, W), whose height and width are fixed, as PyTorch's `interpolate` does.

    Args:
        values: The exporter's.
        size: Height and width.
        align_corners: As of `interpolate`.
    """
    height, width = (int(side) for side in values.shape[2:])
    down = _matrix(height, size[0], align_corners=align_corners)
    across = _matrix(width, size[1], align_corners=align_corners)
    return op.MatMul(_constant(down), op.MatMul(values, _constant(across.T)))


def _matrix(length: int, wanted: int, *, align_corners: bool) -> torch.Tensor:
    """Return what makes `wanted` values of a line of `length`: (wanted, length)."""
    lines = F.interpolate(torch.eye(length)[None], size=wanted, mode="linear", align_corners=align_corners)
    return lines[0].T


def _constant(matrix: torch.Tensor) -> Any:
    return op.Constant(value=onnx.numpy_helper.from_array(matrix.contiguous().numpy()))


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten.upsample_bilinear2d.vec: resized}
