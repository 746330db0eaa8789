"""Signed distances of plane shapes in units: negative inside, zero on the edge, positive outside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from changenet.synthetic.canvas import Floats


def box(u: Floats, v: Floats, half_u: float, half_v: float) -> Floats:
    """Return the distance to a box around the origin (corners measured along the axes)."""
    return np.maximum(np.abs(u) - np.float32(half_u), np.abs(v) - np.float32(half_v))


def rounded_box(u: Floats, v: Floats, half_u: float, half_v: float, radius: float) -> Floats:
    """Return the distance to a box whose corners are rounded."""
    outside_u = np.abs(u) - np.float32(half_u - radius)
    outside_v = np.abs(v) - np.float32(half_v - radius)
    inside = np.minimum(np.maximum(outside_u, outside_v), np.float32(0))
    np.maximum(outside_u, np.float32(0), out=outside_u)
    np.maximum(outside_v, np.float32(0), out=outside_v)
    return np.sqrt(outside_u * outside_u + outside_v * outside_v) + inside - np.float32(radius)


def disc(u: Floats, v: Floats, radius: float) -> Floats:
    """Return the distance to a disc around the origin."""
    return np.sqrt(u * u + v * v) - np.float32(radius)


def strokes(u: Floats, v: Floats, segments: Floats) -> Floats:
    """Return the distance (h, w) to the nearest of several segments, each a row (u0, v0, u1, v1)."""
    start_u, start_v, end_u, end_v = (segments[:, i, None, None] for i in range(4))
    along_u, along_v = end_u - start_u, end_v - start_v
    length = np.maximum(along_u * along_u + along_v * along_v, np.float32(1e-6))
    from_u, from_v = u[None] - start_u, v[None] - start_v
    share = clamp((from_u * along_u + from_v * along_v) / length)
    from_u -= share * along_u
    from_v -= share * along_v
    nearest: Floats = (from_u * from_u + from_v * from_v).min(axis=0)
    return np.sqrt(nearest)


def repeat(v: Floats, pitch: float, count: int) -> tuple[Floats, NDArray[np.intp]]:
    """Fold a coordinate so that one shape appears `count` times, centred; also say which copy each pixel belongs to.

    >>> folded, copy = repeat(np.float32([-5.0, 0.5, 5.5]), 5.0, 3)
    >>> folded.tolist(), copy.tolist()
    ([0.0, 0.5, 0.5], [0, 1, 2])
    """
    middle = np.float32((count - 1) / 2)
    nearest = np.rint(v * np.float32(1 / pitch) + middle)
    np.maximum(nearest, np.float32(0), out=nearest)
    np.minimum(nearest, np.float32(count - 1), out=nearest)
    copy = nearest.astype(np.intp)
    nearest -= middle
    nearest *= np.float32(-pitch)
    nearest += v
    return nearest, copy


def clamp(values: Floats) -> Floats:
    """Limit an array to 0..1 in place (much quicker than `np.clip` on small windows), and return it."""
    np.maximum(values, np.float32(0), out=values)
    np.minimum(values, np.float32(1), out=values)
    return values


def ramp(distance: Floats, width: float) -> Floats:
    """Return 0 on the edge of a shape, rising to 1 at `width` units inside it."""
    return clamp(distance * np.float32(-1.0 / width))


def dome(distance: Floats, width: float) -> Floats:
    """Return the profile of something rounded: steep at the edge, level from `width` units inside on (0 to 1)."""
    rest = np.float32(1) - ramp(distance, width)
    return np.float32(1) - rest * rest
