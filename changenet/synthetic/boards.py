"""Bare boards: solder mask, copper under and over it, vias and silkscreen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from changenet.synthetic.canvas import SIDE, Canvas, Colour, Floats, Frame, Window
from changenet.synthetic.lettering import text_segments, text_width
from changenet.synthetic.shapes import disc, repeat, rounded_box, strokes

BARE_COPPER: Colour = (0.60, 0.27, 0.11)
SUBSTRATE: Colour = (0.50, 0.42, 0.24)
COPPER_HEIGHT = 0.45
CLEAR_OF_TRACK, CLEAR_OF_PAD = 1.6, 1.3


@dataclass(frozen=True)
class Board:
    """The looks that all sites of a design share.

    Args:
        name: The design's name, used in file names.
        mask: Solder mask over bare laminate, linear light.
        track: Solder mask over copper.
        finish: Plated surface of pads and vias that no solder covers.
        silk: Silkscreen ink.
    """

    name: str
    mask: Colour
    track: Colour
    finish: Colour
    silk: Colour = (0.78, 0.78, 0.74)


GOLD: Colour = (0.72, 0.50, 0.20)
TIN: Colour = (0.58, 0.57, 0.54)

BOARDS = (
    Board("alder", mask=(0.006, 0.065, 0.022), track=(0.034, 0.205, 0.060), finish=GOLD),
    Board("birch", mask=(0.006, 0.022, 0.090), track=(0.024, 0.095, 0.290), finish=TIN),
    Board("cedar", mask=(0.014, 0.090, 0.014), track=(0.085, 0.260, 0.048), finish=TIN),
    Board("damson", mask=(0.115, 0.008, 0.010), track=(0.310, 0.042, 0.034), finish=GOLD),
    Board("ebony", mask=(0.009, 0.010, 0.011), track=(0.050, 0.051, 0.049), finish=GOLD),
)
"""The designs that are known, most usual first."""


@dataclass(frozen=True)
class Bus:
    """Parallel straight tracks along u of `frame`, side by side around v = 0.

    Args:
        frame: Where they run.
        width: Of a track.
        pitch: From one lane to the next.
        starts: Where each lane begins along u; beyond its end = the lane is not used.
        ends: Where each lane ends.
    """

    frame: Frame
    width: float
    pitch: float
    starts: tuple[float, ...]
    ends: tuple[float, ...]

    def offset(self, lane: int) -> float:
        """Return where a lane lies along v."""
        return (lane - (len(self.ends) - 1) / 2) * self.pitch


@dataclass(frozen=True)
class Via:
    """A plated hole; a tented one is closed by solder mask."""

    x: float
    y: float
    radius: float
    tented: bool


@dataclass(frozen=True)
class Label:
    """Silkscreen text in a frame."""

    text: str
    frame: Frame
    height: float


@dataclass(frozen=True)
class Artwork:
    """The copper and ink of one site, apart from the component's own pads.

    Args:
        buses: Tracks.
        vias: Plated holes.
        pour: A copper plane as the half plane u < 0 of a frame, or None; it keeps clear of tracks and pads.
        labels: Silkscreen texts.
        weave: Phase and strength of the glass weave that shows through the mask.
    """

    buses: tuple[Bus, ...]
    vias: tuple[Via, ...]
    pour: Frame | None
    labels: tuple[Label, ...]
    weave: tuple[float, float, float]


@dataclass(frozen=True)
class Break:
    """A piece torn out of a track: where, along which direction, and half its length and width in units."""

    frame: Frame
    half_length: float
    half_width: float


def draw_board(
    canvas: Canvas, board: Board, artwork: Artwork, *, pads: Iterable[tuple[Window, Floats]], gap: Break | None
) -> None:
    """Paint the solder mask, the copper below it and the vias.

    Args:
        canvas: What is painted on.
        board: The looks.
        artwork: The copper.
        pads: Windows with the distance to the nearest pad, of which a copper plane keeps clear.
        gap: A break of one track, or None.
    """
    x, y = canvas.axes
    phase_x, phase_y, strength = artwork.weave
    threads = 2 * math.pi / 3.1
    weave = 1.0 + strength * np.sin(threads * y + phase_y)[:, None] * np.sin(threads * x + phase_x)
    for plane, reflectance in zip(canvas.planes, board.mask, strict=False):
        np.multiply(weave, reflectance, out=plane)
    distance = track_distance(canvas, artwork)
    plane = _plane_distance(canvas, artwork.pour, distance, pads) if artwork.pour is not None else None
    if plane is not None:
        np.minimum(distance, plane, out=distance)
    whole = canvas.whole
    whole.paint(whole.cover(distance), board.track, height=COPPER_HEIGHT)
    if gap is not None:
        _draw_gap(canvas, gap)
    for via in artwork.vias:
        _draw_via(canvas, board, via)


def _plane_distance(canvas: Canvas, pour: Frame, tracks: Floats, pads: Iterable[tuple[Window, Floats]]) -> Floats:
    """Return the distance (h, w) to a copper plane, the half plane u < 0 of `pour`, that keeps clear of other copper."""
    half = canvas.patch(pour, -4 * SIDE, -4 * SIDE, 4 * SIDE, 4 * SIDE)
    assert half is not None, "the box is larger than any picture"
    distance: Floats = np.maximum(half.u, CLEAR_OF_TRACK - tracks)
    for window, nearest in pads:
        view = distance[window]
        np.maximum(view, CLEAR_OF_PAD - nearest, out=view)
    return distance


def _draw_gap(canvas: Canvas, gap: Break) -> None:
    """Paint the place where a piece of track was torn off, and the mask with it: laminate shows, the edges are ragged."""
    patch = canvas.patch(gap.frame, -gap.half_length - 2, -gap.half_width - 2, gap.half_length + 2, gap.half_width + 2)
    if patch is not None:
        ragged = 0.7 * np.sin(0.9 * patch.u + gap.frame.x) * np.sin(0.8 * patch.v + gap.frame.y)
        torn = rounded_box(patch.u, patch.v, gap.half_length, gap.half_width, 1.0) + ragged
        patch.paint(patch.cover(torn), SUBSTRATE, height=-0.3)


def _draw_via(canvas: Canvas, board: Board, via: Via) -> None:
    reach = via.radius + 1.0
    patch = canvas.patch(Frame(via.x, via.y), -reach, -reach, reach, reach)
    if patch is None:
        return
    from_middle = disc(patch.u, patch.v, via.radius)
    rim, hole = patch.cover(from_middle), patch.cover(from_middle + via.radius * 0.53)
    if via.tented:
        patch.paint(rim, board.track, height=COPPER_HEIGHT)
        patch.paint(hole, board.mask, height=-0.5)
    else:
        patch.paint(rim, board.finish, metal=0.85, height=COPPER_HEIGHT)
        patch.paint(hole, (0.01, 0.01, 0.01), height=-2.0)


def draw_label(canvas: Canvas, label: Label, ink: Colour, *, pen: float = 0.16) -> None:
    """Write a text with strokes `pen` times as wide as it is high."""
    half = text_width(label.text, label.height) / 2 + 1.0
    patch = canvas.patch(label.frame, -half, -label.height / 2 - 1, half, label.height / 2 + 1)
    segments = text_segments(label.text, label.height)
    if patch is not None and len(segments):
        distance = strokes(patch.u, patch.v, segments) - np.float32(label.height * pen / 2)
        coverage = patch.cover(distance)
        patch.paint(coverage, ink)
        patch.raise_by(coverage, 0.12)


def track_distance(canvas: Canvas, artwork: Artwork) -> Floats:
    """Return the distance (h, w) to the nearest track of the site."""
    nearest: Floats = np.full((canvas.pixels, canvas.pixels), 99, np.float32)
    for bus in artwork.buses:
        margin = bus.width / 2 + 2.0
        half = bus.offset(len(bus.ends) - 1) + margin
        patch = canvas.patch(bus.frame, min(bus.starts) - margin, -half, max(bus.ends) + margin, half)
        if patch is None:
            continue
        v, lane = repeat(patch.v, bus.pitch, len(bus.ends)) if len(bus.ends) > 1 else (patch.v, None)
        if lane is None or len(set(bus.starts)) == len(set(bus.ends)) == 1:  # no need to look up each pixel's lane
            beyond = np.maximum(bus.starts[0] - patch.u, patch.u - bus.ends[0])
        else:
            starts, ends = np.array(bus.starts, np.float32), np.array(bus.ends, np.float32)
            beyond = np.maximum(starts[lane] - patch.u, patch.u - ends[lane])
        np.maximum(beyond, np.float32(0), out=beyond)
        view = nearest[patch.window]
        np.minimum(view, np.sqrt(beyond * beyond + v * v) - np.float32(bus.width / 2), out=view)
    return nearest
