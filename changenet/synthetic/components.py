"""Parts and how they look from above: chip resistors and capacitors, diodes, gull-wing packages, pin headers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from changenet.synthetic.boards import Label, draw_label
from changenet.synthetic.builds import Build
from changenet.synthetic.canvas import Canvas, Colour, Frame
from changenet.synthetic.joints import DARK, LEAD, Row, compose, draw_leads
from changenet.synthetic.shapes import box, disc, dome, ramp, repeat, rounded_box

TERMINAL: Colour = (0.60, 0.59, 0.56)
MARKING: Colour = (0.17, 0.17, 0.165)


@dataclass(frozen=True)
class Component:
    """What stands at a site, in a frame of its own (u along the part).

    Args:
        family: `chip` (two terminals), `package` (body with gull-wing leads) or `header` (soldered pins, no body).
        prefix: Letter of its reference designator.
        half_u: Half the body's length.
        half_v: Half the body's width.
        thickness: Height of the body above the board.
        body: Colour of the body, linear light.
        rows: Its solder joints.
        marking: Text on the body; `#` stands for a digit that changes with the lot.
        terminal: Length of the metal ends of a `chip`.
        mark: `dot`, `band` or `` : what shows the polarity.
    """

    family: str
    prefix: str
    half_u: float
    half_v: float
    thickness: float
    body: Colour
    rows: tuple[Row, ...]
    marking: str = ""
    terminal: float = 0.0
    mark: str = ""

    @property
    def joints(self) -> int:
        """Number of solder joints."""
        return sum(row.count for row in self.rows)

    @property
    def extent(self) -> tuple[float, float]:
        """Half the length and width of all that the component covers, pads included."""
        half_u, half_v = self.half_u, self.half_v
        for row in self.rows:
            _, _, far, side = row.reach(0.0)
            for u, v in ((far, side), (far, -side)):
                x, y = row.frame.point(u, v)
                half_u, half_v = max(half_u, abs(x)), max(half_v, abs(y))
        return half_u, half_v


def draw_part(canvas: Canvas, component: Component, frame: Frame, build: Build) -> None:
    """Paint the part itself at its real place."""
    place = compose(frame, build.placement)
    if component.family == "header":
        _draw_pins(canvas, component, frame)
    elif build.standing:
        _draw_standing(canvas, component, place, build)
    elif component.family == "chip":
        _draw_chip(canvas, component, place, build)
    else:
        _draw_package(canvas, component, place, build)


def _shaded(colour: Colour, shade: float) -> Colour:
    return colour[0] * shade, colour[1] * shade, colour[2] * shade


def _draw_chip(canvas: Canvas, component: Component, frame: Frame, build: Build) -> None:
    half_u, half_v, thickness = component.half_u, component.half_v, component.thickness
    patch = canvas.patch(frame, -half_u - 1, -half_v - 1, half_u + 1, half_v + 1)
    if patch is None:
        return
    outline = rounded_box(patch.u, patch.v, half_u, half_v, 0.8)
    height = np.float32(thickness) * (np.float32(0.80) + np.float32(0.20) * dome(outline, 1.6))
    patch.paint(patch.cover(outline), TERMINAL, metal=0.95, height=height)
    middle = half_u - component.terminal
    patch.paint(patch.cover(box(patch.u, patch.v, middle, half_v - 0.15)), _shaded(component.body, build.shade))
    if component.prefix == "R":
        coat = patch.cover(box(patch.u, patch.v, middle - 0.5, half_v - 0.9))
        patch.paint(coat, _shaded((0.012, 0.012, 0.014), build.shade))
        patch.raise_by(coat, 0.15)
    if component.mark == "band":
        band = box(patch.u + np.float32(middle * 0.62), patch.v, middle * 0.22, half_v - 0.3)
        patch.paint(patch.cover(band), (0.42, 0.40, 0.36))
    if component.marking:
        draw_label(canvas, Label(build.marking, frame, half_v * 0.95), (0.55, 0.55, 0.53), pen=0.18)


def _draw_standing(canvas: Canvas, component: Component, frame: Frame, build: Build) -> None:
    end = frame.then(build.standing * (component.half_u - component.thickness * 0.3), 0.0)
    half_u, half_v = component.thickness * 0.62, component.half_v
    patch = canvas.patch(end, -half_u - 2, -half_v - 1, half_u + 2, half_v + 1)
    if patch is None:
        return
    outline = rounded_box(patch.u, patch.v, half_u, half_v, 0.8)
    height = np.float32(component.half_u * 1.5) * (np.float32(0.85) + np.float32(0.15) * dome(outline, 1.5))
    patch.paint(patch.cover(outline), TERMINAL, metal=0.95, height=height)
    # It leans a little, so that a strip of the body shows on the side that was lifted.
    strip = box(patch.u + np.float32(build.standing * half_u * 0.72), patch.v, half_u * 0.34, half_v)
    patch.paint(patch.cover(strip), _shaded(component.body, build.shade))


def _draw_package(canvas: Canvas, component: Component, frame: Frame, build: Build) -> None:
    for row in component.rows:
        draw_leads(canvas, compose(frame, row.frame), row)
    half_u, half_v, thickness = component.half_u, component.half_v, component.thickness
    patch = canvas.patch(frame, -half_u - 1, -half_v - 1, half_u + 1, half_v + 1)
    if patch is None:
        return
    outline = rounded_box(patch.u, patch.v, half_u, half_v, 0.5)
    bevel = ramp(outline, 1.4)
    height = np.float32(thickness) * (np.float32(0.62) + np.float32(0.38) * bevel)
    patch.paint(patch.cover(outline), _shaded(component.body, build.shade), metal=0.02, height=height)
    if component.mark == "dot":
        inset = min(half_u, half_v)
        dimple = disc(patch.u + np.float32(half_u - inset * 0.42), patch.v - np.float32(half_v - inset * 0.42), 1.5)
        coverage = patch.cover(dimple)
        patch.paint(coverage, _shaded(component.body, build.shade * 0.55))
        patch.raise_by(coverage, -0.5)
    elif component.mark == "band":
        band = box(patch.u + np.float32(half_u * 0.68), patch.v, half_u * 0.14, half_v - 0.5)
        patch.paint(patch.cover(band), MARKING)
    for line, text in enumerate(build.marking.split("/")):
        lines = component.marking.count("/") + 1
        letter = min(4.6, half_v * 1.25 / lines, half_u * 2.2 / max(len(text), 3))
        place = frame.then(0.0, (line - (lines - 1) / 2) * letter * 1.5)
        draw_label(canvas, Label(text, place, letter), MARKING, pen=0.17)


def _draw_pins(canvas: Canvas, component: Component, frame: Frame) -> None:
    for row in component.rows:
        patch = canvas.patch(compose(frame, row.frame), *row.reach(1.0))
        if patch is None:
            continue
        u, v = patch.u - np.float32(row.middle), repeat(patch.v, row.pitch, row.count)[0]
        patch.paint(patch.cover(disc(u, v, 2.1)), DARK, height=1.2)
        tip = rounded_box(u, v, 1.45, 1.45, 0.5)
        patch.paint(patch.cover(tip), LEAD, metal=0.9, height=np.float32(3.0) + dome(tip, 1.4))


def chip_part(rng: np.random.Generator) -> Component:
    """Draw a resistor, capacitor or small diode."""
    kind = rng.choice(["R", "R", "C", "C", "C", "D"])
    half_u = float(rng.uniform(10.5, 14.5))
    half_v = half_u * float(rng.uniform(0.50, 0.62))
    thickness = half_v * float(rng.uniform(0.42, 0.62)) if kind == "R" else half_v * float(rng.uniform(0.8, 1.1))
    ceramics: list[Colour] = [(0.34, 0.22, 0.12), (0.42, 0.30, 0.18), (0.24, 0.18, 0.13), (0.30, 0.27, 0.24)]
    body: Colour = {"R": (0.62, 0.61, 0.57), "D": (0.016, 0.016, 0.017)}.get(str(kind)) or ceramics[
        int(rng.integers(len(ceramics)))
    ]
    terminal = half_u * float(rng.uniform(0.24, 0.34))
    pad = float(rng.uniform(5.0, 6.5))
    row = {
        "count": 1,
        "pitch": 99.0,
        "near": -terminal * 0.9,
        "far": pad,
        "width": half_v * 2.0 + float(rng.uniform(0.5, 2.0)),
        "lead": 0.0,
        "rise": thickness,
        "toe": 0.0,
    }
    rows = (Row(Frame(half_u, 0.0), **row), Row(Frame(-half_u, 0.0, np.pi), **row))  # type: ignore[arg-type]
    marking = str(rng.choice(["103", "472", "1R0", "220", "0", "564"])) if kind == "R" else ""
    return Component(
        "chip", str(kind), half_u, half_v, thickness, body, rows, marking, terminal, "band" if kind == "D" else ""
    )


def package_part(rng: np.random.Generator) -> Component:
    """Draw a small-outline package: a transistor with three leads, or an integrated circuit with two rows."""
    black = (float(rng.uniform(0.012, 0.03)),) * 3
    if rng.random() < 0.35:
        half_u, half_v = float(rng.uniform(7.0, 8.5)), float(rng.uniform(13.0, 15.5))
        shape = {"near": 2.2, "far": 10.0, "width": 6.8, "lead": 4.6, "rise": 4.0, "toe": 6.6}
        rows = (
            Row(Frame(half_u, 0.0), 1, 12.0, **shape),
            Row(Frame(-half_u, 0.0, np.pi), 2, half_v * 1.26, **shape),
        )
        return Component("package", "Q", half_u, half_v, 6.0, black, rows, "1A##", mark="")
    count = int(rng.integers(2, 4))
    pitch = float(rng.uniform(13.0, 15.5))
    half_u, half_v = float(rng.uniform(11.0, 14.0)), (count - 1) / 2 * pitch + float(rng.uniform(4.0, 5.5))
    width = pitch * 0.56
    shape = {"near": 2.6, "far": 12.0, "width": width, "lead": width * 0.72, "rise": 4.5, "toe": 7.6}
    rows = (Row(Frame(half_u, 0.0), count, pitch, **shape), Row(Frame(-half_u, 0.0, np.pi), count, pitch, **shape))
    marking = str(rng.choice(["LM358/##A#", "74HC##/##C", "TL072/#K##", "NE555/##"]))
    return Component("package", "U", half_u, half_v, 6.5, black, rows, marking, mark="dot")


def corner_part(rng: np.random.Generator) -> Component:
    """Draw the corner of a large quad package: leads on two sides, the rest of it outside the picture."""
    black = (float(rng.uniform(0.010, 0.025)),) * 3
    pitch = float(rng.uniform(10.0, 11.5))
    half, count = 27.0, 4
    width = pitch * 0.56
    shape = {"near": 2.4, "far": 11.5, "width": width, "lead": width * 0.70, "rise": 4.5, "toe": 7.0}
    rows = (
        Row(Frame(half, half - 3.4 - (count - 1) / 2 * pitch), count, pitch, **shape),
        Row(Frame(half - 3.4 - (count - 1) / 2 * pitch, half, np.pi / 2), count, pitch, **shape),
    )
    return Component("package", "U", half, half, 6.0, black, rows, "MCU##/#T##")


def header_part(rng: np.random.Generator) -> Component:
    """Draw the solder side of a pin header: one or two rows of pins in round solder cones."""
    count, pitch = int(rng.integers(3, 5)), float(rng.uniform(13.5, 15.5))
    lines = int(rng.integers(1, 3))
    radius = pitch * 0.34
    shape = {
        "near": -radius,
        "far": radius,
        "width": 2 * radius,
        "lead": 0.0,
        "rise": 2.4,
        "toe": 0.0,
        "corner": radius,
    }
    rows = tuple(Row(Frame((line - (lines - 1) / 2) * pitch, 0.0), count, pitch, **shape) for line in range(lines))
    half_v = (count - 1) / 2 * pitch + pitch / 2
    return Component("header", "J", lines * pitch / 2, half_v, 0.0, DARK, rows)
