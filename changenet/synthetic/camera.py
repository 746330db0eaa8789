"""The camera: where it stands, how it exposes, and the noise of its sensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from changenet.synthetic.builds import Build
from changenet.synthetic.canvas import HEIGHT, SIDE, Canvas, Floats, Frame
from changenet.synthetic.lights import RENDERERS, surface_of
from changenet.synthetic.scene import draw_scene
from changenet.synthetic.sites import Site

SUPERSAMPLING = 2
GRAIN_SIDE = 1024
NOISE_VALUES = 1 << 21


@dataclass(frozen=True)
class Drift:
    """How far one kind of picture strays from the ideal.

    Args:
        shift: Largest displacement of the camera in units (1/64 of the picture's side).
        angle: Largest turn in degrees.
        exposure: Spread of the exposure, as a share.
        noise: Spread of the sensor's noise at mid grey, of full scale.
    """

    shift: float
    angle: float
    exposure: float
    noise: float


GOLDEN_DRIFT = Drift(shift=0.3, angle=0.15, exposure=0.03, noise=0.006)
TEST_DRIFT = Drift(shift=1.0, angle=0.4, exposure=0.05, noise=0.009)


@lru_cache(maxsize=1)
def _grain() -> Floats:
    """Return a fixed field of fine unevenness with mean 0 and spread 1; pictures take windows of it."""
    rng = np.random.default_rng(20)
    field = rng.standard_normal((GRAIN_SIDE, GRAIN_SIDE), dtype=np.float32)
    for step in (2, 8, 32):
        coarse = rng.standard_normal((GRAIN_SIDE // step, GRAIN_SIDE // step), dtype=np.float32)
        field += np.kron(coarse, np.ones((step, step), np.float32))
    smooth = np.roll(field, 1, 0) + np.roll(field, -1, 0) + np.roll(field, 1, 1) + np.roll(field, -1, 1)
    smooth -= smooth.mean()
    return np.asarray(smooth / smooth.std(), np.float32)


@lru_cache(maxsize=1)
def _noise() -> Floats:
    """Return standard normal noise to take windows of: drawing it anew would cost as much as drawing the board."""
    return np.random.default_rng(30).standard_normal(NOISE_VALUES, dtype=np.float32)


def take_pictures(
    site: Site, build: Build, *, size: int, lights: tuple[str, ...], drift: Drift, rng: np.random.Generator
) -> list[np.ndarray]:
    """Photograph a specimen under each light: uint8 arrays (size, size, 3).

    The camera stands still between the lights, so they are aligned with each other; exposure and noise differ.

    Args:
        site: What was designed.
        build: What was made.
        size: Side of the pictures in pixels.
        lights: Names out of `lights.LIGHTS`.
        drift: How far the picture may stray.
        rng: Source of every draw.
    """
    x, y = rng.uniform(-drift.shift, drift.shift, 2)
    angle = math.radians(float(rng.uniform(-drift.angle, drift.angle)))
    canvas = Canvas(size * SUPERSAMPLING, Frame(SIDE / 2 + float(x), SIDE / 2 + float(y), angle))
    draw_scene(canvas, site, build)
    row, column = rng.integers(0, GRAIN_SIDE - canvas.pixels + 1, 2)
    grain = _grain()[row : row + canvas.pixels, column : column + canvas.pixels]
    canvas.planes[:HEIGHT] *= np.float32(1) + np.float32(0.06) * grain
    surface = surface_of(canvas)
    return [_expose(RENDERERS[light](surface), drift, rng) for light in lights]


def _expose(radiance: Floats, drift: Drift, rng: np.random.Generator) -> np.ndarray:
    """Turn radiance (3, n·H, n·W) into the sensor's uint8 (H, W, 3)."""
    light = radiance[:, ::2, ::2] + radiance[:, 1::2, ::2] + radiance[:, ::2, 1::2] + radiance[:, 1::2, 1::2]
    size = light.shape[1]
    gain = np.float32(rng.normal(1.0, drift.exposure)) * rng.normal(1.0, 0.015, 3).astype(np.float32)
    fall = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    tilt_x, tilt_y = rng.normal(0, 0.04, 2).astype(np.float32)
    flat = np.float32(0.25) * (np.float32(1) + tilt_x * fall[None, :] + tilt_y * fall[:, None])
    light *= gain[:, None, None] * flat
    np.maximum(light, np.float32(0), out=light)
    np.sqrt(light, out=light)
    noise = _noise()
    first = int(rng.integers(len(noise) - light.size))
    light += np.float32(drift.noise) * noise[first : first + light.size].reshape(light.shape)
    light *= np.float32(255)
    np.clip(light, 0, 255, out=light)
    return np.ascontiguousarray(light.astype(np.uint8).transpose(1, 2, 0))
