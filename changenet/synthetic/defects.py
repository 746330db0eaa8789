"""Defects: what goes wrong on a line, each larger than anything a good specimen shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from changenet.synthetic.boards import Break
from changenet.synthetic.builds import Build
from changenet.synthetic.canvas import SIDE, Floats, Frame
from changenet.synthetic.sites import Site

Spoil = Callable[[Site, Build, np.random.Generator], Build]


def missing(_site: Site, build: Build, _rng: np.random.Generator) -> Build:
    """The part was not placed: its pads carry cushions of solder."""
    return replace(build, present=False)


def shifted(_site: Site, build: Build, rng: np.random.Generator) -> Build:
    """The part lies 6 to 9.5 units off its place."""
    angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(6.0, 9.5)
    place = build.placement
    return replace(
        build,
        placement=Frame(
            place.x + float(distance * math.cos(angle)), place.y + float(distance * math.sin(angle)), place.angle
        ),
    )


def rotated(_site: Site, build: Build, rng: np.random.Generator) -> Build:
    """The part is turned by 20 to 45 degrees."""
    angle = math.radians(float(rng.choice([-1, 1]) * rng.uniform(20, 45)))
    return replace(build, placement=Frame(build.placement.x, build.placement.y, angle))


def tombstone(_site: Site, build: Build, rng: np.random.Generator) -> Build:
    """A two-terminal part stands on one end."""
    return replace(build, standing=int(rng.choice([-1, 1])))


def bridge(site: Site, build: Build, rng: np.random.Generator) -> Build:
    """Solder joins two neighbouring joints."""
    row, first = _neighbours(site)[int(rng.integers(len(_neighbours(site))))]
    return replace(build, bridges=((first, float(rng.uniform(0.7, 0.95)) * (row[1] - row[0])),))


def insufficient(site: Site, build: Build, rng: np.random.Generator) -> Build:
    """A joint got next to no solder: copper shows."""
    visible = _visible_joints(site)
    joint = visible[int(rng.integers(len(visible)))]
    solder = build.solder.copy()
    solder[joint] = rng.uniform(0.0, 0.25)
    return replace(build, solder=solder)


def open_trace(site: Site, build: Build, rng: np.random.Generator) -> Build:
    """A piece of a track, 7 to 10 units long, is torn off."""
    places = track_places(site)
    frame, width = places[int(rng.integers(len(places)))]
    return replace(build, gap=Break(frame, float(rng.uniform(3.5, 5.0)), width / 2 + 0.5))


def scratch(site: Site, build: Build, rng: np.random.Generator) -> Build:
    """A sharp object went 30 to 50 units across the board and bared what lies below the mask."""
    best: Floats | None = None
    most = -1
    for _ in range(12):
        x, y = rng.uniform(8, SIDE - 8, 2)
        heading = rng.uniform(0, 2 * math.pi)
        points = [(x, y)]
        for length in rng.dirichlet((4.0, 4.0, 4.0)) * rng.uniform(30, 50):
            heading += rng.normal(0, 0.22)
            x, y = x + length * math.cos(heading), y + length * math.sin(heading)
            points.append((x, y))
        chain = np.array(points, np.float32)
        ends = np.linspace(0, 3, 28)
        along = [(np.interp(end, range(4), chain[:, 0]), np.interp(end, range(4), chain[:, 1])) for end in ends]
        seen = sum(not site.hidden(float(px), float(py)) for px, py in along)
        if seen > most:
            best, most = chain, seen
    return replace(build, scratch=best)


DEFECTS: dict[str, Spoil] = {
    "missing": missing,
    "shifted": shifted,
    "rotated": rotated,
    "tombstone": tombstone,
    "bridge": bridge,
    "insufficient": insufficient,
    "open_trace": open_trace,
    "scratch": scratch,
}
"""Label of each kind of defect and the function that spoils a good build with it."""


def possible_defects(site: Site) -> tuple[str, ...]:
    """Return the labels of the defects that can happen at a site."""
    kinds = ["insufficient", "scratch"]
    if site.component.family != "header":
        kinds += ["missing", "shifted", "rotated"]
    if site.component.family == "chip":
        kinds.append("tombstone")
    if _neighbours(site):
        kinds.append("bridge")
    if track_places(site):
        kinds.append("open_trace")
    return tuple(kind for kind in DEFECTS if kind in kinds)


def track_places(site: Site) -> list[tuple[Frame, float]]:
    """Return places along the tracks where a break would be seen, each with the track's width."""
    places = []
    for bus in site.artwork.buses:
        for lane, (start, end) in enumerate(zip(bus.starts, bus.ends, strict=True)):
            for u in np.arange(max(start, -SIDE) + 5.5, min(end, SIDE) - 5.5, 2.0):
                place = bus.frame.then(float(u), bus.offset(lane))
                if site.hidden(place.x, place.y, 4.0) or _covered(site, place):
                    continue
                places.append((place, bus.width))
    return places


def _covered(site: Site, place: Frame) -> bool:
    """Say whether a via or a label lies over a place, or another track runs close by and would close the gap."""
    if any(math.hypot(via.x - place.x, via.y - place.y) < via.radius + 3.5 for via in site.artwork.vias):
        return True
    for label in site.artwork.labels:
        u, v = label.frame.local(place.x, place.y)
        if abs(u) < label.height * 1.6 and abs(v) < label.height * 0.8:
            return True
    return False


def _neighbours(site: Site) -> list[tuple[tuple[float, float], int]]:
    """Return every visible pair of neighbouring joints: the pads' reach along u, and the number of the first."""
    pairs, first = [], 0
    visible = set(_visible_joints(site))
    for row in site.component.rows:
        close = row.pitch < 2.6 * row.width
        pairs += [
            ((row.near, row.far), first + joint)
            for joint in range(row.count - 1)
            if close and {first + joint, first + joint + 1} <= visible
        ]
        first += row.count
    return pairs


def _visible_joints(site: Site) -> list[int]:
    joints, number = [], 0
    for row in site.component.rows:
        place = site.frame.then(row.frame.x, row.frame.y, row.frame.angle)
        for joint in range(row.count):
            x, y = place.point(row.middle, row.offset(joint))
            if 4.0 < x < SIDE - 4.0 and 4.0 < y < SIDE - 4.0:
                joints.append(number)
            number += 1
    return joints
