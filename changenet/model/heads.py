"""From a map to a few numbers: TAO's head on the flattened map, or one on its maxima and means for any picture size."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

HeadKind = Literal["flatten", "pool"]


class Head(nn.Module):
    """Two hidden layers on a map.

    Args:
        kind: `flatten` sees every place of the map and ties the network to one picture size; `pool` sees the maximum
            and the mean of each channel.
        channels: Of the map.
        size: Height and width of the map; used by `flatten` only.
        hidden: Width of both hidden layers.
        outputs: Numbers that come out.
    """

    def __init__(
        self, *, kind: HeadKind, channels: int, size: tuple[int, int] | None, hidden: int, outputs: int
    ) -> None:
        super().__init__()
        self.kind = kind
        if kind == "flatten":
            assert size is not None
            inputs = channels * size[0] * size[1]
        else:
            inputs = 2 * channels
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            nn.Linear(hidden, outputs),
        )

    def forward(self, values: Tensor) -> Tensor:
        """Return (B, outputs) for a map (B, channels, H, W)."""
        if self.kind == "flatten":
            flat = values.flatten(1)
        else:
            flat = torch.cat([values.amax(dim=(2, 3)), values.mean(dim=(2, 3))], dim=1)
        out: Tensor = self.layers(flat)
        return out
