"""Sites: one place of a board design, with its component and the copper and ink around it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from changenet.synthetic.boards import Artwork, Board, Bus, Label, Via
from changenet.synthetic.canvas import SIDE, Frame
from changenet.synthetic.components import Component, chip_part, corner_part, header_part, package_part

Floats64: TypeAlias = NDArray[np.float64]

FAR = 90.0
"""Beyond the picture from wherever one starts, in units."""

MAKERS = (chip_part, package_part, chip_part, corner_part, chip_part, package_part, header_part)
"""Kinds of component in the order in which a board's sites get them."""


@dataclass(frozen=True)
class Site:
    """One picture's subject as it is designed.

    Args:
        name: Reference designator, the `object_name` of its pictures.
        board: The looks of the design.
        component: The part.
        frame: Where the part stands.
        artwork: Copper and ink around it.
    """

    name: str
    board: Board
    component: Component
    frame: Frame
    artwork: Artwork

    def hidden(self, x: float, y: float, margin: float = 1.0) -> bool:
        """Say whether the part or its pads lie over a board point, or the point is too near the picture's edge."""
        if not (5.0 < x < SIDE - 5.0 and 5.0 < y < SIDE - 5.0):
            return True
        u, v = self.frame.local(x, y)
        half_u, half_v = self.component.extent
        return abs(u) < half_u + margin and abs(v) < half_v + margin


def make_site(*, board: Board, number: int, rng: np.random.Generator) -> Site:
    """Draw the design of one site.

    Args:
        board: The design it belongs to.
        number: Running number in the design: it chooses the kind of component and names the site.
        rng: Source of the draw.
    """
    component = MAKERS[number % len(MAKERS)](rng)
    frame = _stand(component, rng)
    buses, vias = _route(component, frame, rng)
    pour = None
    if rng.random() < 0.55:
        pour = Frame(float(rng.uniform(20, 44)), float(rng.uniform(20, 44)), float(rng.integers(8)) * math.pi / 4)
    name = f"{component.prefix}{number + 1}"
    weave = (float(rng.uniform(0, 6.28)), float(rng.uniform(0, 6.28)), float(rng.uniform(0.02, 0.07)))
    artwork = Artwork(buses, vias, pour, _label(name, component, frame, rng), weave)
    return Site(name, board, component, frame, artwork)


def _stand(component: Component, rng: np.random.Generator) -> Frame:
    turn = float(rng.integers(4)) * math.pi / 2
    if component.family == "package" and component.half_u == component.half_v:  # the corner of a large package
        u, v = rng.uniform(2.0, 8.0, 2)
        # The corner that is seen lies at (+, +) of the part's frame: push the rest out of the picture.
        middle = Frame(SIDE / 2, SIDE / 2, turn)
        return middle.then(-component.half_u + float(u), -component.half_v + float(v))
    x, y = SIDE / 2 + rng.uniform(-3.0, 3.0, 2)
    return Frame(float(x), float(y), turn)


def _route(component: Component, frame: Frame, rng: np.random.Generator) -> tuple[tuple[Bus, ...], tuple[Via, ...]]:
    """Lead tracks out of about two thirds of the pads, and through the free stretches of the picture."""
    width = float(rng.uniform(3.8, 5.2))
    buses: list[Bus] = []
    vias: list[Via] = []
    tented = bool(rng.random() < 0.4)
    for row in component.rows:
        place = frame.then(row.frame.x, row.frame.y, row.frame.angle)
        knee = float(rng.uniform(4.0, 9.0))
        turn = float(rng.choice([-1, 0, 1])) * math.pi / 4
        used = rng.random(row.count) < 0.75
        short = (rng.random(row.count) < 0.4) & used
        ends = np.where(short, rng.uniform(4.0, 11.0, row.count), 60.0)
        near, far = np.where(used, 0.0, FAR), np.where(used, knee, -FAR)
        buses.append(_bus(place.then(row.middle, 0.0), width, row.pitch, near, far))
        # Behind the knee the lanes run on side by side, each beginning where its first stretch ended.
        sideways = np.array([row.offset(joint) for joint in range(row.count)])
        along = sideways * math.sin(turn)
        starts, ends = np.where(used, along, FAR), np.where(used, along + ends, -FAR)
        second = place.then(row.middle + knee, 0.0, turn)
        buses.append(_bus(second, width, row.pitch * math.cos(turn), starts, ends))
        for joint in np.flatnonzero(short):
            x, y = second.point(float(ends[joint]), float(sideways[joint] * math.cos(turn)))
            vias.append(Via(x, y, float(rng.uniform(2.3, 3.0)), tented))
    half_u, half_v = component.extent
    # Tracks that pass by, where the part leaves room beside it.
    for side in (-1.0, 1.0):
        room = SIDE / 2 - half_v
        if room > 9.0 and rng.random() < 0.8:
            count, pitch = int(rng.integers(1, 3 if room < 14 else 4)), width * float(rng.uniform(1.9, 2.3))
            across = side * (half_v + 4.5 + (count - 1) / 2 * pitch + float(rng.uniform(0, max(room - 14.0, 0.5))))
            buses.append(_bus(frame.then(0.0, across), width, pitch, np.full(count, -FAR), np.full(count, FAR)))
    while len(vias) < 2:
        x, y = rng.uniform(4.0, SIDE - 4.0, 2)
        u, v = frame.local(float(x), float(y))
        if abs(u) > half_u + 3.5 or abs(v) > half_v + 3.5 or rng.random() < 0.02:
            vias.append(Via(float(x), float(y), float(rng.uniform(2.0, 2.8)), tented))
    return tuple(buses), tuple(vias)


def _bus(frame: Frame, width: float, pitch: float, starts: Floats64, ends: Floats64) -> Bus:
    return Bus(frame, width, pitch, tuple(starts.tolist()), tuple(ends.tolist()))


def _label(name: str, component: Component, frame: Frame, rng: np.random.Generator) -> tuple[Label, ...]:
    half_u, half_v = component.extent
    height = float(rng.uniform(5.2, 6.4))
    choices = [frame.then(0.0, sign * (half_v + height * 0.5 + 3.0)) for sign in (-1.0, 1.0)] + [
        frame.then(sign * (half_u + height * 0.5 + 1.5), 0.0, math.pi / 2) for sign in (-1.0, 1.0)
    ]
    inside = [place for place in choices if 5.0 < place.x < SIDE - 5.0 and 5.0 < place.y < SIDE - 5.0]
    if not inside:
        return ()
    place = inside[int(rng.integers(len(inside)))]
    # Read from below or from the right, never upside down.
    angle = math.remainder(place.angle, 2 * math.pi)
    upright = angle if -2.0 < angle < 1.0 else angle - math.pi
    return (Label(name, Frame(place.x, place.y, upright), height),)
