"""How the lights of one picture become one array: sizes, order and place of every light.

The one preprocessing of training, evaluation, ONNX and serving. Training augments between its two halves (`resize`
and `assemble`); everybody else calls `combine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from changenet.errors import DataError, Problem

Concat = Literal["linear", "grid"]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PictureLayout:
    """The lights of a picture, in order, and how they become one.

    Args:
        lights: File suffix of each light; `""` is the only light of a picture without suffixes. `linear` puts the first
            one on top; `grid` fills rows from the left, the first row on top.
        concat: `linear` stacks the lights along the height; `grid` tiles them.
        grid: (columns, rows), with `concat` `grid`: their product is the number of lights.
        width: Of one light, in pixels after resizing.
        height: Of one light, in pixels after resizing.

    Raises:
        DataError: A light is named twice, a size is not positive, or the grid does not hold exactly the lights.

    >>> PictureLayout(lights=("Solder", "White"), width=64, height=32).shape
    (3, 64, 64)
    """

    lights: tuple[str, ...] = ("",)
    concat: Concat = "linear"
    grid: tuple[int, int] = (1, 1)
    width: int = 128
    height: int = 128

    def __post_init__(self) -> None:
        problems = []
        if not self.lights or len(set(self.lights)) != len(self.lights):
            problems.append(Problem(f"lights are {list(self.lights)}", fix="Name one or more lights, each once."))
        if self.concat not in get_args(Concat):
            problems.append(Problem(f"concatenation is {self.concat!r}", fix="Use 'linear' or 'grid'."))
        elif self.concat == "grid" and (min(self.grid) < 1 or self.grid[0] * self.grid[1] != len(self.lights)):
            columns, rows = self.grid
            problems.append(
                Problem(
                    f"a grid of {columns} x {rows} does not hold {len(self.lights)} light(s)",
                    fix="Columns times rows must be the number of lights.",
                )
            )
        if self.width < 1 or self.height < 1:
            problems.append(Problem(f"size is {self.width} x {self.height}", fix="Use at least 1 x 1 pixels."))
        if problems:
            raise DataError(problems)

    @property
    def tiles(self) -> tuple[int, int]:
        """(columns, rows) of lights in the combined picture."""
        return self.grid if self.concat == "grid" else (1, len(self.lights))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, H, W) of the combined picture."""
        columns, rows = self.tiles
        return (3, rows * self.height, columns * self.width)

    def resize(self, picture: Image.Image) -> Image.Image:
        """Return one light at its final size: bilinear with antialiasing, the aspect ratio is not kept."""
        if picture.size == (self.width, self.height):
            return picture
        return picture.resize((self.width, self.height), Image.Resampling.BILINEAR)

    def combine(self, pictures: Sequence[Image.Image]) -> Pixels:
        """Resize each light (mode RGB, in the order of `lights`) and put them into one picture.

        Returns:
            uint8, (3, H, W).

        Raises:
            DataError: There is not one picture a light.
        """
        if len(pictures) != len(self.lights):
            raise DataError(f"{len(pictures)} picture(s) for {len(self.lights)} light(s)", fix="Give one a light.")
        return self.assemble(np.stack([np.asarray(self.resize(picture)).transpose(2, 0, 1) for picture in pictures]))

    def assemble(self, lights: Pixels) -> Pixels:
        """Put resized lights (..., lights, 3, h, w) into whole pictures (..., 3, H, W), always a copy."""
        columns, rows = self.tiles
        *batch, _, channels, height, width = lights.shape
        tiles = lights.reshape(-1, rows, columns, channels, height, width)
        whole = tiles.transpose(0, 3, 1, 4, 2, 5).copy()  # (B, 3, rows, h, columns, w)
        return whole.reshape(*batch, channels, rows * height, columns * width)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "lights": list(self.lights), "grid": list(self.grid)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PictureLayout:
        """Rebuild what `to_dict` took apart."""
        return cls(**{**values, "lights": tuple(values["lights"]), "grid": tuple(values["grid"])})
