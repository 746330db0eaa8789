"""How the differences from several goldens become one: they attend to each other, and the strongest stays.

Reference: TAO's Visual ChangeNet, release 7.3, whose checkpoints load into it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from changenet.errors import Problem, SpecError
from changenet.model.catalogue import GOLDEN_CELL as CELL


class GoldenFusion(nn.Module):
    """Joins the difference maps that one test picture has with each of its goldens, on one level.

    The map is cut into cells of 7 x 7 places. Places with the same offset inside their cell form one sequence, over all
    cells and goldens: 49 sequences, each with attention of one head inside it. So a difference that one golden shows
    meets what the others show there. The order of the goldens does not matter.

    Args:
        width: E, channels of the maps.
        size: Height and width of the maps, multiples of 7.
    """

    def __init__(self, *, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = (side // CELL for side in size)
        # Tiled 7 x 7 over the map, as in TAO; it does not follow the cells.
        self.position = nn.Parameter(torch.zeros(1, width, rows, columns))
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, differences: Tensor) -> Tensor:
        """Return one map (B, E, H, W) for differences (B, N, E, H, W) from N goldens."""
        _, goldens, width, height, across = differences.shape
        rows, columns = self.position.shape[-2:]
        placed = differences + self.position.repeat(1, 1, CELL, CELL)
        cells = placed.reshape(-1, goldens, width, rows, CELL, columns, CELL)
        # The offsets stand where attention has its heads: they do not see each other.
        tokens = cells.permute(0, 4, 6, 1, 3, 5, 2).reshape(-1, CELL * CELL, goldens * rows * columns, width)
        attended = F.scaled_dot_product_attention(self.query(tokens), self.key(tokens), self.value(tokens))
        tokens = tokens + self.output(attended)
        strongest = tokens.reshape(-1, CELL, CELL, goldens, rows, columns, width).amax(dim=3)
        joined = strongest.permute(0, 5, 3, 1, 4, 2)  # (B, E, rows, 7, columns, 7)
        out: Tensor = self.norm(joined.reshape(-1, width, height, across))
        return out


def check_level_sizes(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], *, image_size: tuple[int, int], backbone: str
) -> None:
    """Make sure that the levels of an encoder can be cut into cells.

    Args:
        sizes: Height and width of each level.
        strides: Of each level.
        image_size: Height and width of the picture.
        backbone: Name of the encoder.

    Raises:
        SpecError: They cannot; names the sides that can.
    """
    if all(side % CELL == 0 for size in sizes for side in size):
        return
    shown = ", ".join(f"{height}x{width}" for height, width in sizes)
    raise SpecError(
        [
            Problem(
                f"the picture is {image_size[0]}x{image_size[1]} (height x width), which gives {backbone} levels of "
                f"{shown}; to compare with several goldens all of them must be multiples of {CELL}",
                where="dataset.classify.image_height / image_width",
                fix=f"Use sides (all lights together) that are multiples of {CELL * max(strides)}.",
            )
        ]
    )
