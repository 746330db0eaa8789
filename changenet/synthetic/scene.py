"""From a site and a build to the material maps of one picture."""

from __future__ import annotations

import numpy as np

from changenet.synthetic.boards import COPPER_HEIGHT, SUBSTRATE, Board, Label, draw_board, draw_label
from changenet.synthetic.builds import Build
from changenet.synthetic.canvas import Canvas, Floats, Frame
from changenet.synthetic.components import Component, draw_part
from changenet.synthetic.joints import compose, draw_pads, draw_solder, see_pads
from changenet.synthetic.shapes import box, disc, rounded_box, strokes
from changenet.synthetic.sites import Site


def draw_scene(canvas: Canvas, site: Site, build: Build) -> None:
    """Paint everything that lies on the board at a site, in the order in which it got there."""
    board, component, artwork = site.board, site.component, site.artwork
    views = [see_pads(canvas, compose(site.frame, row.frame), row) for row in component.rows]
    seen = [view for view in views if view is not None]
    draw_board(canvas, board, artwork, pads=[(pads.patch.window, pads.distance) for pads in seen], gap=build.gap)
    for pads in seen:
        draw_pads(pads, board)
    silk = Frame(site.frame.x + build.silk[0], site.frame.y + build.silk[1], site.frame.angle)
    _draw_outline(canvas, board, component, silk)
    for label in artwork.labels:
        place = Frame(label.frame.x + build.silk[0], label.frame.y + build.silk[1], label.frame.angle)
        draw_label(canvas, Label(label.text, place, label.height), board.silk)
    if build.scratch is not None:
        _draw_scratch(canvas, build.scratch)
    first = 0
    for row, view in zip(component.rows, views, strict=True):
        if view is not None:
            last = first + row.count
            bridges = tuple((joint - first, width) for joint, width in build.bridges if first <= joint < last)
            climbs = not build.standing or (first == 0) == (build.standing > 0)
            occupied = build.present and component.family != "header" and climbs
            draw_solder(view, build.solder[first:last], bridges, occupied=occupied)
        first += row.count
    if build.present:
        draw_part(canvas, component, site.frame, build)
    _draw_specks(canvas, build.specks)


def _draw_outline(canvas: Canvas, board: Board, component: Component, frame: Frame) -> None:
    """Paint the silkscreen outline: two lines beside a chip, a box around a header, nothing below other bodies."""
    half_u, half_v = component.extent
    if component.family == "chip":
        patch = canvas.patch(frame, -half_u, -half_v - 4, half_u, half_v + 4)
        if patch is not None:
            line = box(patch.u, np.abs(patch.v) - np.float32(half_v + 2.0), half_u * 0.55, 0.45)
            patch.paint(patch.cover(line), board.silk)
    elif component.family == "header":
        patch = canvas.patch(frame, -half_u - 4, -half_v - 4, half_u + 4, half_v + 4)
        if patch is not None:
            line = np.abs(box(patch.u, patch.v, half_u + 1.2, half_v + 1.2)) - np.float32(0.42)
            patch.paint(patch.cover(line), board.silk)
    elif component.mark == "dot":
        corner = frame.then(-half_u + 1.0, half_v + 2.2)
        patch = canvas.patch(corner, -2.5, -2.5, 2.5, 2.5)
        if patch is not None:
            patch.paint(patch.cover(disc(patch.u, patch.v, 1.3)), board.silk)


def _draw_scratch(canvas: Canvas, chain: Floats) -> None:
    segments = np.concatenate([chain[:-1], chain[1:]], axis=1)
    patch = canvas.patch(Frame(0.0, 0.0), *(float(x) for x in (*(chain.min(axis=0) - 2), *(chain.max(axis=0) + 2))))
    if patch is None:
        return
    distance = strokes(patch.u, patch.v, segments)
    copper = patch.planes[-1] > COPPER_HEIGHT * 0.5
    groove = patch.cover(distance - np.float32(1.0))
    patch.paint(groove * ~copper, SUBSTRATE)
    patch.paint(groove * copper, (0.62, 0.36, 0.18), metal=0.5)
    patch.raise_by(groove, -0.4)
    burr = patch.cover(np.abs(distance - np.float32(1.4)) - np.float32(0.3))
    patch.raise_by(burr, 0.25)


def _draw_specks(canvas: Canvas, specks: Floats) -> None:
    for x, y, radius, brightness in specks.tolist():
        patch = canvas.patch(Frame(x, y), -radius - 1, -radius - 1, radius + 1, radius + 1)
        if patch is not None:
            grain = patch.cover(rounded_box(patch.u, patch.v, radius, radius * 0.7, radius * 0.6))
            patch.paint(grain, (brightness, brightness, brightness * 0.95))
