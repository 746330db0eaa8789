"""The four lights of an inspection machine, and what a camera above the board sees under each.

The material maps hold colour, metal and height. Slopes come from the height; mask, ink and plastic scatter light by
Lambert's law, solder and plated copper mirror the part of the lamp that their slope turns towards the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from changenet.synthetic.canvas import HEIGHT, METAL, Canvas, Floats

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
    """Mix what a point scatters (3, H, W) with what it mirrors (3, H, W), by how much of a metal it is."""
    mirrored -= scattered
    mirrored *= surface.metal
    mirrored += scattered
    return mirrored


def white_light(surface: Surface) -> Floats:
    """A white lamp from the upper left above a dim dome: colours, shading and glints."""
    facing = (
        np.float32(-0.45) * surface.tilt_x + np.float32(-0.45) * surface.tilt_y + np.float32(0.77) * surface.upright
    )
    lit = np.float32(0.32) + np.float32(0.95) * np.maximum(facing, np.float32(0)) * surface.shade
    x, y = surface.tilt_x + np.float32(0.26), surface.tilt_y + np.float32(0.26)
    glint = np.exp((x * x + y * y) * np.float32(-26.0))
    tilt = np.float32(1) - surface.upright * surface.upright
    sky = np.float32(0.10) + np.float32(0.62) * np.exp(tilt * np.float32(-7.0)) + np.float32(0.95) * glint
    sky *= np.float32(0.7) + np.float32(0.3) * surface.shade
    gloss = (np.float32(0.035) * glint * surface.shade)[None]
    return _blend(surface, surface.colour * lit + gloss, surface.colour * (sky * np.float32(1.35)))


def uniform_light(surface: Surface) -> Floats:
    """A white dome from all sides: soft, pale, without shadows; slopes are a little darker."""
    lit = np.float32(0.45) + np.float32(0.55) * surface.upright
    grey = surface.colour.mean(axis=0)
    pale = surface.colour * np.float32(0.62) + grey * np.float32(0.33) + np.float32(0.035)
    sky = (np.float32(0.35) + np.float32(0.55) * surface.upright) * np.float32(1.05)
    return _blend(surface, pale * lit, pale * sky)


def low_angle_light(surface: Surface) -> Floats:
    """A bluish ring near the board: level ground stays dark, edges and steep slopes shine."""
    tilt = np.float32(1) - surface.upright * surface.upright
    steep = tilt * np.float32(4) * (np.float32(1.06) - tilt)
    np.maximum(steep, np.float32(0), out=steep)
    tint = np.array([0.80, 0.93, 1.0], np.float32)[:, None, None]
    scattered = surface.colour * (np.float32(0.16) + np.float32(0.55) * tilt) + np.float32(0.10) * steep
    mirrored = (np.float32(0.012) + np.float32(0.85) * steep)[None] * (surface.colour + np.float32(0.25))
    return _blend(surface, scattered, mirrored) * tint


def solder_light(surface: Surface) -> Floats:
    """Tiers of rings, red above green above blue: the colour of solder tells its slope."""
    tilt = np.float32(1) - surface.upright * surface.upright  # sine squared of the slope
    red = np.exp(tilt * np.float32(-16.0))
    middle = (tilt - np.float32(0.20)) * np.float32(5.5)
    green = np.exp(-middle * middle)
    blue = np.clip(tilt * np.float32(2.6) - np.float32(0.62), np.float32(0), np.float32(1))
    mirrored = np.stack([red + np.float32(0.10) * green, green * np.float32(0.85), blue + np.float32(0.25) * green])
    mirrored *= np.float32(0.9)
    mirrored += np.float32(0.02)
    tint = np.array([0.42, 0.50, 0.78], np.float32)[:, None, None]
    scattered = surface.colour * tint * (np.float32(0.35) + np.float32(0.55) * surface.upright) + np.float32(0.006)
    return _blend(surface, scattered, mirrored)


RENDERERS: dict[str, Callable[[Surface], Floats]] = dict(
    zip(LIGHTS, (low_angle_light, solder_light, uniform_light, white_light), strict=True)
)
"""The picture (3, H, W) in linear light that each lamp gives; it may exceed 1 where the sensor will saturate."""
