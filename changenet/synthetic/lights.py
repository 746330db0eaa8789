"""The four lights of an inspection machine, and what a camera above the board sees under each.

The material maps hold colour, metal and height. Slopes come from the height; mask, ink and plastic scatter light by
Lambert's law, solder and plated copper mirror the part of the lamp that their slope turns towards the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from changenet.synthetic.canvas import HEIGHT, METAL, Canvas, Floats
from changenet.synthetic.shapes import clamp

LIGHTS = ("LowAngleLight", "SolderLight", "UniformLight", "WhiteLight")
"""Names of the lights, in the order of `input_map`."""


@dataclass(frozen=True)
class Surface:
    """What the lights fall on: reflectance (3, H, W), the rest (H, W).

    Args:
        colour: Diffuse reflectance of red, green and blue, 0 to 1.
        metal: How much of a mirror a point is, 0 to 1.
        tilt_x: x of the unit normal.
        tilt_y: y of the unit normal.
        upright: z of the unit normal, 1 on level ground.
        shade: Share of the directed light that reaches the point past its taller neighbours.
    """

    colour: Floats
    metal: Floats
    tilt_x: Floats
    tilt_y: Floats
    upright: Floats
    shade: Floats


def surface_of(canvas: Canvas) -> Surface:
    """Derive normals and shadows from the material maps."""
    height = canvas.planes[HEIGHT]
    step = np.float32(0.5 / canvas.pixel)
    slope_x, slope_y = np.zeros_like(height), np.zeros_like(height)
    slope_x[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * step
    slope_y[1:-1] = (height[2:] - height[:-2]) * step
    metal = canvas.planes[METAL]
    upright = np.float32(1) / np.sqrt(np.float32(1) + slope_x * slope_x + slope_y * slope_y)
    return Surface(
        canvas.planes[:METAL],
        metal,
        -slope_x * upright,
        -slope_y * upright,
        upright,
        _shadow(height, canvas.pixel),
    )


def _shadow(height: Floats, pixel: float) -> Floats:
    """Return the share of light that passes: the lamp stands at the upper left, about 50 degrees high."""
    shade: Floats = np.ones_like(height)
    for reach in (1.5, 4.0):
        shift = max(1, round(reach / pixel))
        over = height[:-shift, :-shift] - height[shift:, shift:] - np.float32(reach * 1.2)
        lit = np.clip(np.float32(1) - over * np.float32(0.35), np.float32(0.35), np.float32(1))
        view = shade[shift:, shift:]
        np.minimum(view, lit, out=view)
    return shade


def _blend(surface: Surface, scattered: Floats, mirrored: Floats) -> Floats:
    """Mix what a point scatters with what it mirrors, by how much of a metal it is."""
    mixed = mirrored - scattered
    mixed *= surface.metal
    mixed += scattered
    return mixed


def white_light(surface: Surface) -> Floats:
    """A white lamp from the upper left above a dim dome: colours, shading and glints."""
    facing = 0.77 * surface.upright - 0.45 * (surface.tilt_x + surface.tilt_y)
    lit = 0.32 + 0.95 * np.maximum(facing, np.float32(0)) * surface.shade
    x, y = surface.tilt_x + 0.26, surface.tilt_y + 0.26
    glint = np.exp((x * x + y * y) * -26.0)
    tilt = 1.0 - surface.upright * surface.upright
    sky = 0.135 + 0.84 * np.exp(tilt * -7.0) + 1.28 * glint
    sky *= 0.7 + 0.3 * surface.shade
    picture: Floats = surface.colour * _blend(surface, lit, sky)
    picture += 0.035 * glint * surface.shade * (1.0 - surface.metal)  # mask and plastic are a little glossy
    return picture


def uniform_light(surface: Surface) -> Floats:
    """A white dome from all sides: soft, pale, without shadows; slopes are a little darker."""
    lit = 0.45 + 0.55 * surface.upright
    sky = 0.37 + 0.58 * surface.upright
    pale = surface.colour * 0.62 + (surface.colour.mean(axis=0) * 0.33 + 0.035)
    return np.asarray(pale * _blend(surface, lit, sky), np.float32)


def low_angle_light(surface: Surface) -> Floats:
    """A bluish ring near the board: level ground stays dark, edges and steep slopes shine."""
    tilt = 1.0 - surface.upright * surface.upright
    steep = 4.0 * tilt * (1.06 - tilt)
    np.maximum(steep, np.float32(0), out=steep)
    tint = np.array([0.80, 0.93, 1.0], np.float32)[:, None, None]
    scattered = surface.colour * (0.16 + 0.55 * tilt) + 0.10 * steep
    mirrored = (0.012 + 0.85 * steep) * (surface.colour + 0.25)
    return _blend(surface, scattered, mirrored) * tint


def solder_light(surface: Surface) -> Floats:
    """Tiers of rings, red above green above blue: the colour of solder tells its slope."""
    tilt = 1.0 - surface.upright * surface.upright  # sine squared of the slope
    red = np.exp(tilt * -16.0)
    middle = (tilt - 0.20) * 5.5
    green = np.exp(-middle * middle)
    blue = clamp(tilt * 2.6 - 0.62)
    mirrored = 0.9 * np.stack([red + 0.10 * green, 0.85 * green, blue + 0.25 * green]) + 0.02
    tint = np.array([0.42, 0.50, 0.78], np.float32)[:, None, None]
    scattered = surface.colour * tint * (0.35 + 0.55 * surface.upright) + 0.006
    return _blend(surface, scattered, mirrored)


RENDERERS: dict[str, Callable[[Surface], Floats]] = dict(
    zip(LIGHTS, (low_angle_light, solder_light, uniform_light, white_light), strict=True)
)
"""The picture (3, H, W) in linear light that each lamp gives; it may exceed 1 where the sensor will saturate."""
