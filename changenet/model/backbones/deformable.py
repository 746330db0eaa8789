"""Multi-scale deformable attention in plain PyTorch: each query looks at a few places that it chooses itself."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Size = tuple[int, int]


def cell_centres(sizes: Sequence[Size], like: Tensor) -> Tensor:
    """Return the centres (Q, 2) of the cells of maps, one map after the other: x and y in 0-1.

    Args:
        sizes: Rows and columns of each map.
        like: Gives the device.
    """
    centres = []
    for rows, columns in sizes:
        y = (torch.arange(rows, device=like.device, dtype=torch.float32) + 0.5) / rows
        x = (torch.arange(columns, device=like.device, dtype=torch.float32) + 0.5) / columns
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        centres.append(torch.stack([grid_x, grid_y], dim=-1).flatten(0, 1))
    return torch.cat(centres)


class DeformableAttention(nn.Module):
    """Attention over a few sampled places of each level.

    Places and samples are float32 under autocast too: half precision would move the places by whole cells.

    Args:
        width: D, of queries and values.
        levels: Number of maps that are looked at.
        heads: Attention heads; the width of the sampled values is a multiple of it.
        points: Places a query, head and level.
        value_ratio: Width of the sampled values over D.
    """

    full_precision = ("offsets", "weights")  # layers whose weights stay float32 where others are rounded

    def __init__(self, width: int, *, levels: int, heads: int = 16, points: int = 4, value_ratio: float = 0.5) -> None:
        super().__init__()
        inner = int(width * value_ratio)
        if inner % heads:
            raise ValueError(f"{heads} attention heads do not share {inner} channels")
        self.levels, self.heads, self.points = levels, heads, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value = nn.Linear(width, inner)
        self.output = nn.Linear(inner, width)
        self._initialise()

    def forward(self, query: Tensor, centres: Tensor, values: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Return (B, Q, D).

        Args:
            query: (B, Q, D).
            centres: Where each query stands, (Q, 2): x and y in 0-1.
            values: The maps as tokens, one map after the other: (B, sum of rows * columns, D).
            sizes: Rows and columns of each map.
        """
        value = self.value(values)
        with _full_precision(query.device.type):
            sampled = self._sample(query.float(), centres, value.float(), sizes)
        out: Tensor = self.output(sampled)
        return out

    def _sample(self, query: Tensor, centres: Tensor, value: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Return the weighted samples (B, Q, inner)."""
        offsets = torch.unflatten(self.offsets(query), -1, (self.heads, self.levels, self.points, 2))
        offsets = offsets.permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (levels, B * heads, Q, points, 2)
        weights = torch.unflatten(self.weights(query), -1, (self.heads, self.levels * self.points)).softmax(dim=-1)
        weights = torch.unflatten(weights.transpose(1, 2).flatten(0, 1), -1, (self.levels, self.points))
        total: Tensor | None = None
        parts = torch.split(value, [rows * columns for rows, columns in sizes], dim=1)
        for level, (part, (rows, columns)) in enumerate(zip(parts, sizes, strict=True)):
            shape = (self.heads, -1, rows, columns)
            maps = torch.unflatten(part.transpose(1, 2).flatten(1), 1, shape).flatten(0, 1)  # (B * heads, d, H, W)
            scale = torch.tensor([columns, rows], dtype=torch.float32, device=query.device)
            places = 2 * (centres[:, None] + offsets[level] / scale) - 1  # (B * heads, Q, points, 2), in -1 to 1
            samples = F.grid_sample(maps, places, mode="bilinear", padding_mode="zeros", align_corners=False)
            weighted = (samples * weights[:, None, :, level]).sum(dim=-1)  # (B * heads, d, Q)
            total = weighted if total is None else total + weighted
        assert total is not None
        return torch.unflatten(total, 0, (-1, self.heads)).flatten(1, 2).transpose(1, 2)

    def _initialise(self) -> None:
        """Each head looks along its own direction, its points one cell apart; all places count alike."""
        angle = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        places = direction[:, None, None] * steps[None, None, :, None]  # (heads, 1, points, 2)
        with torch.no_grad():
            self.offsets.bias.copy_(places.expand(-1, self.levels, -1, -1).flatten())
        for zero in (self.offsets.weight, self.weights.weight, self.weights.bias, self.value.bias, self.output.bias):
            nn.init.zeros_(zero)
        nn.init.xavier_uniform_(self.value.weight)
        nn.init.xavier_uniform_(self.output.weight)


def _full_precision(device_type: str) -> AbstractContextManager[object]:
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()
