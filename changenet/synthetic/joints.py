"""Rows of solder joints: pads, the solder on them, and the gull-wing leads that end there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from changenet.synthetic.boards import BARE_COPPER, COPPER_HEIGHT, Board
from changenet.synthetic.canvas import HEIGHT, Canvas, Colour, Floats, Frame, Patch
from changenet.synthetic.shapes import box, clamp, dome, ramp, repeat, rounded_box

SOLDER: Colour = (0.62, 0.62, 0.61)
LEAD: Colour = (0.50, 0.49, 0.46)
DARK: Colour = (0.010, 0.010, 0.011)

STARVED = 0.5
"""A joint with less of its nominal solder does not wet its pad."""


@dataclass(frozen=True)
class Row:
    """Equal joints side by side.

    The row's frame has its origin at the middle of the row on the body's edge, u pointing outwards; pads reach from
    `near` to `far` along u.

    Args:
        frame: Where the row lies in the component's frame.
        count: Number of joints.
        pitch: Distance between neighbours.
        near: Where pads begin.
        far: Where pads end.
        width: Width of a pad.
        lead: Width of the lead that ends on the pad; 0 = none (the part's own terminals lie there).
        rise: Height at which a lead leaves the body, or of the terminal that the solder climbs.
        toe: Where the lead or terminal ends along u; solder falls from there to the pad's end.
        corner: Radius of the pads' corners.
    """

    frame: Frame
    count: int
    pitch: float
    near: float
    far: float
    width: float
    lead: float
    rise: float
    toe: float
    corner: float = 0.7

    @property
    def middle(self) -> float:
        """Where the middle of the pads lies along u."""
        return (self.near + self.far) / 2

    def offset(self, joint: float) -> float:
        """Return where a joint lies along v."""
        return (joint - (self.count - 1) / 2) * self.pitch

    def reach(self, margin: float) -> tuple[float, float, float, float]:
        """Return the box (left, top, right, bottom) of all joints in the row's frame, widened by `margin`."""
        half = (self.count - 1) / 2 * self.pitch + self.width / 2 + margin
        return min(self.near, 0.0) - margin, -half, self.far + margin, half


def compose(outer: Frame, inner: Frame) -> Frame:
    """Return the frame `inner`, given in `outer`, on the board."""
    return outer.then(inner.x, inner.y, inner.angle)


@dataclass(frozen=True)
class Pads:
    """A row as it is seen: everything that its pads and its solder have in common.

    Args:
        row: The joints.
        patch: The window, in the row's frame.
        joint: Number of the nearest joint (h, w).
        distance: Distance to the nearest pad (h, w).
    """

    row: Row
    patch: Patch
    joint: NDArray[np.intp]
    distance: Floats


def see_pads(canvas: Canvas, frame: Frame, row: Row) -> Pads | None:
    """Find the pads of a row whose frame lies at `frame` on the board; None when they are out of view."""
    patch = canvas.patch(frame, *row.reach(2.2))
    if patch is None:
        return None
    v, joint = repeat(patch.v, row.pitch, row.count)
    distance = rounded_box(patch.u - np.float32(row.middle), v, (row.far - row.near) / 2, row.width / 2, row.corner)
    return Pads(row, patch, joint, distance)


def draw_pads(pads: Pads, board: Board) -> None:
    """Paint the plated pads."""
    pads.patch.paint(pads.patch.cover(pads.distance), board.finish, metal=0.85, height=COPPER_HEIGHT)


def draw_solder(pads: Pads, amounts: Floats, bridges: tuple[tuple[int, float], ...], *, occupied: bool) -> None:
    """Paint the solder of a row.

    Args:
        pads: Where it lies.
        amounts: Solder at each joint (count,); below about 0.5 the joint is starved and shows copper.
        bridges: Joints that are bridged to the next one, with the bridge's width in units.
        occupied: Whether a lead or terminal is there for the solder to climb; else it forms a low cushion.
    """
    row, patch = pads.row, pads.patch
    amount = amounts[pads.joint]
    if (amounts < STARVED).any():
        patch.paint(patch.cover(pads.distance) * (amount < STARVED), BARE_COPPER, metal=0.45, height=COPPER_HEIGHT)
    distance = pads.distance + (np.float32(1) - amount) * np.float32(row.width * 0.62)
    height: Floats = COPPER_HEIGHT + amount * np.float32(0.9) * dome(distance, row.width * 0.5)
    if occupied:
        fall = clamp((np.float32(row.far) - patch.u) * np.float32(1 / (row.far - row.toe)))
        height += amount * np.float32(row.rise * 0.55) * fall * fall * ramp(distance, row.width * 0.3)
    patch.paint(patch.cover(distance), SOLDER, metal=1.0, height=height)
    for first, width in bridges:
        v = patch.v - np.float32(row.offset(first + 0.5))
        corner = min(width, row.pitch) / 2.2
        blob = rounded_box(patch.u - np.float32(row.middle), v, width / 2, row.pitch / 2 + 0.6, corner)
        height = np.float32(COPPER_HEIGHT + 0.3) + np.float32(1.3) * dome(blob, width * 0.5)
        patch.paint(patch.cover(blob), SOLDER, metal=1.0, height=np.maximum(height, patch.planes[HEIGHT]))


def draw_leads(canvas: Canvas, frame: Frame, row: Row) -> None:
    """Paint the gull-wing leads of a row: a shoulder at the body, a slope, and a flat foot on the pad."""
    patch = canvas.patch(frame, *row.reach(1.0))
    if patch is None:
        return
    v = repeat(patch.v, row.pitch, row.count)[0]
    length = row.toe + 0.5
    distance = box(patch.u - np.float32(length / 2 - 0.5), v, length / 2, row.lead / 2)
    down = clamp((patch.u - np.float32(row.toe * 0.22)) * np.float32(1 / (row.toe * 0.33)))
    down = down * down * (np.float32(3) - np.float32(2) * down)
    height = np.float32(row.rise) + (np.float32(1.5) - np.float32(row.rise)) * down
    patch.paint(patch.cover(distance), LEAD, metal=0.9, height=height + np.float32(0.3) * dome(distance, 0.8))
