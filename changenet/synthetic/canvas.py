"""The surface that a camera looks at: what every point is made of, how high it lies, and how shapes are painted on it.

Lengths are in **units**: a picture is always 64 units wide, whatever its size in pixels, so a defect has the same
physical size at 64 and at 128 px. Shapes are signed distances evaluated only inside the window they touch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.floating[Any]]
"""float32 throughout; numpy's type stubs take a product with a Python float for float64, which it is not."""
Colour: TypeAlias = tuple[float, float, float]

Window: TypeAlias = tuple[slice, slice]
"""Rows and columns of a canvas."""

SIDE = 64.0
"""Side of every picture in units."""

METAL, HEIGHT = 3, 4
"""Planes of `Canvas.planes` after red, green and blue (linear light)."""


@dataclass(frozen=True)
class Frame:
    """A place and a direction on the board: origin in units, angle in radians (x right, y down, turning clockwise)."""

    x: float
    y: float
    angle: float = 0.0

    def then(self, u: float, v: float, angle: float = 0.0) -> Frame:
        """Return the frame that lies at (u, v) of this one, turned by `angle`."""
        x, y = self.point(u, v)
        return Frame(x, y, self.angle + angle)

    def point(self, u: float, v: float) -> tuple[float, float]:
        """Return the board position of the local point (u, v)."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self.x + cos * u - sin * v, self.y + sin * u + cos * v

    def local(self, x: float, y: float) -> tuple[float, float]:
        """Return the local position of a board point."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return cos * (x - self.x) + sin * (y - self.y), cos * (y - self.y) - sin * (x - self.x)


@dataclass(frozen=True)
class Patch:
    """The window of a canvas that a shape touches, with the local coordinates of its pixels (h, w) in units."""

    window: Window
    planes: Floats  # (5, h, w), a view
    u: Floats
    v: Floats
    pixel: float

    def cover(self, distance: Floats) -> Floats:
        """Return how much of each pixel lies inside the shape, 0 to 1, from its signed distance in units."""
        coverage = distance * np.float32(-1.0 / self.pixel)
        coverage += np.float32(0.5)
        np.maximum(coverage, np.float32(0), out=coverage)
        np.minimum(coverage, np.float32(1), out=coverage)
        return coverage

    def paint(
        self,
        coverage: Floats,
        colour: Colour | None = None,
        *,
        metal: float = 0.0,
        height: float | Floats | None = None,
    ) -> None:
        """Lay a material over the pixels it covers; without a colour only the height changes."""
        level = isinstance(height, float)
        if colour is not None:
            value = [*colour, metal, height] if level else [*colour, metal]
            surface = self.planes[: len(value)]
            change = np.array(value, np.float32)[:, None, None] - surface
            change *= coverage
            surface += change
        if height is not None and not (level and colour is not None):
            relief = self.planes[HEIGHT]
            relief += coverage * (height - relief)

    def raise_by(self, coverage: Floats, height: float) -> None:
        """Lift the covered pixels by `height` units above what lies below them."""
        self.planes[HEIGHT] += coverage * np.float32(height)


class Canvas:
    """The material maps of one picture, seen from a camera that is slightly displaced against the board.

    Args:
        pixels: Side of the square maps in pixels.
        camera: Where the camera's middle lies on the board, and how far it is turned; (32, 32, 0) is the ideal.
    """

    def __init__(self, pixels: int, camera: Frame) -> None:
        self.pixels = pixels
        self.pixel = SIDE / pixels
        self._camera = camera
        self._turn = math.cos(camera.angle), math.sin(camera.angle)
        self.planes: Floats = np.zeros((5, pixels, pixels), np.float32)  # red, green, blue, metal, height
        self._steps: Floats = (np.arange(pixels, dtype=np.float32) + np.float32(0.5)) * np.float32(self.pixel)
        self._steps -= np.float32(SIDE / 2)

    @property
    def axes(self) -> tuple[Floats, Floats]:
        """Board x of the middle row's pixels and board y of the middle column's (n,)."""
        return self._steps + self._camera.x, self._steps + self._camera.y

    @cached_property
    def whole(self) -> Patch:
        """The patch of all pixels in board coordinates."""
        seen = self.patch(Frame(0.0, 0.0), -4 * SIDE, -4 * SIDE, 4 * SIDE, 4 * SIDE)
        assert seen is not None, "a camera stays near the board's middle"
        return seen

    def patch(self, frame: Frame, left: float, top: float, right: float, bottom: float) -> Patch | None:
        """Return the window that holds the box from (left, top) to (right, bottom) of `frame`; None when out of view."""
        # The frame as the camera sees it: origin (x, y), and how far it is turned.
        camera_cos, camera_sin = self._turn
        away_x, away_y = frame.x - self._camera.x, frame.y - self._camera.y
        x, y = camera_cos * away_x + camera_sin * away_y, camera_cos * away_y - camera_sin * away_x
        cos, sin = math.cos(frame.angle - self._camera.angle), math.sin(frame.angle - self._camera.angle)
        u, v = (left + right) / 2, (top + bottom) / 2
        half_u, half_v = right - u, bottom - v
        columns = self._span(x + cos * u - sin * v, abs(cos) * half_u + abs(sin) * half_v)
        rows = self._span(y + sin * u + cos * v, abs(sin) * half_u + abs(cos) * half_v)
        if columns.start >= columns.stop or rows.start >= rows.stop:
            return None
        # Both coordinates are linear in column and row, so each costs one outer sum.
        across, down = self._steps[columns] - x, self._steps[rows, None] - y
        return Patch(
            (rows, columns),
            self.planes[:, rows, columns],
            across * cos + down * sin,
            down * cos - across * sin,
            self.pixel,
        )

    def _span(self, middle: float, half: float) -> slice:
        first = int((middle - half + SIDE / 2) / self.pixel) - 1
        last = int((middle + half + SIDE / 2) / self.pixel) + 2
        return slice(max(first, 0), min(last, self.pixels))
