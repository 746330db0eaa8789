"""One random transform a pair: the same for the test picture, its golden(s) and every light of them.

The order is TAO's: flip, rotate, crop, blur, colour. Unlike TAO, resampling is bilinear everywhere, the colour
probability is the one that is documented, any number of angles may be listed, and all lights see the four colour
operations in the same order. Our own `random_shift` moves the goldens against the test picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from changenet.errors import DataError, Problem
from changenet.torchvision_compat import transforms

_CROP_SCALE = (0.8, 1.2)  # of the area (TAO); a square that does not fit is drawn again
_CROP_ATTEMPTS = 10
_MAX_BLUR = 1.0  # pixels, standard deviation
_LEAST_BLUR = 0.25  # below, the neighbours together weigh less than half a grey level


class PairAugmentation:
    """Augments one pair, every light by itself, so that tiles keep their places.

    Args:
        hflip_probability: Of mirroring left and right, 0-1.
        vflip_probability: Of mirroring top and bottom, 0-1.
        rotate_probability: Of a rotation by one of `angle_list`, 0-1.
        angle_list: Degrees counter-clockwise, each as likely. The size stays; corners turn black (nearest pixel).
            Multiples of 90 are exact.
        crop: Cut every pair to a random square (0.8 to 1 of the area of a square picture) and resize it back.
        blur: Blur every pair by a Gaussian of standard deviation U(0, 1) pixels.
        color_probability: Of the colour jitter, 0-1.
        brightness: Factor from U(max(0, 1 - value), 1 + value).
        contrast: Likewise.
        saturation: Likewise.
        hue: Shift from U(-value, value) of the colour circle, value 0-0.5.
        shift_probability: Of moving the goldens against the test picture, 0-1.
        shift_max_pixels: Largest move along each axis, in pixels of the resized light. Every golden moves by itself,
            its lights together; edges are repeated.

    Raises:
        DataError: A value is out of its range.
    """

    def __init__(
        self,
        *,
        hflip_probability: float = 0.0,
        vflip_probability: float = 0.0,
        rotate_probability: float = 0.0,
        angle_list: Sequence[float] = (90.0, 180.0, 270.0),
        crop: bool = False,
        blur: bool = False,
        color_probability: float = 0.0,
        brightness: float = 0.3,
        contrast: float = 0.3,
        saturation: float = 0.3,
        hue: float = 0.3,
        shift_probability: float = 0.0,
        shift_max_pixels: int = 6,
    ) -> None:
        self._flips = (hflip_probability, vflip_probability)
        self._rotate_probability, self._angles = rotate_probability, tuple(float(angle) for angle in angle_list)
        self._crop, self._blur = crop, blur
        self._color_probability, self._hue = color_probability, hue
        self._factors = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self._shift_probability, self._shift_max = shift_probability, shift_max_pixels
        self._check()

    def __call__(self, test: Tensor, goldens: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Augment one pair.

        Args:
            test: uint8 (lights, 3, h, w).
            goldens: uint8 (goldens, lights, 3, h, w).
            generator: The only source of randomness.

        Returns:
            `test` and `goldens`, shapes and type kept; the arguments are not changed.
        """
        pictures = torch.cat([test.unsqueeze(0), goldens])  # (1 + goldens, lights, 3, h, w)
        batch = self._geometry(pictures.flatten(0, 1), generator)  # (pictures, 3, h, w)
        if generator.random() < self._shift_probability:
            pictures = batch.reshape(pictures.shape)
            batch = self._shift_goldens(pictures, generator).flatten(0, 1)
        if self._blur:
            batch = _blur(batch, generator.uniform(0.0, _MAX_BLUR))
        if generator.random() < self._color_probability:
            batch = self._jitter(batch, generator)
        pictures = batch.reshape(pictures.shape)
        return pictures[0], pictures[1:]

    def _geometry(self, batch: Tensor, generator: np.random.Generator) -> Tensor:
        axes = [
            axis for axis, probability in zip((-1, -2), self._flips, strict=True) if generator.random() < probability
        ]
        if axes:
            batch = batch.flip(axes)
        if generator.random() < self._rotate_probability:
            batch = transforms.functional.rotate(batch, self._angles[generator.integers(len(self._angles))])
        if self._crop:
            height, width = batch.shape[-2:]
            box = crop_box(height, width, generator)
            if box != (0, 0, height, width):
                batch = transforms.functional.resized_crop(batch, *box, [height, width], antialias=True)
        return batch

    def _shift_goldens(self, pictures: Tensor, generator: np.random.Generator) -> Tensor:
        moves = generator.integers(-self._shift_max, self._shift_max + 1, size=(len(pictures) - 1, 2))
        shifted = [
            shift(golden, int(down), int(right)) for golden, (down, right) in zip(pictures[1:], moves, strict=True)
        ]
        return torch.stack([pictures[0], *shifted])

    def _jitter(self, batch: Tensor, generator: np.random.Generator) -> Tensor:
        functional = transforms.functional
        steps = [
            (getattr(functional, f"adjust_{name}"), generator.uniform(max(0.0, 1.0 - value), 1.0 + value), value)
            for name, value in self._factors.items()
        ]
        steps.append((functional.adjust_hue, generator.uniform(-self._hue, self._hue), self._hue))
        for index in generator.permutation(len(steps)):
            adjust, factor, strength = steps[index]
            if strength > 0:
                batch = adjust(batch, factor)
        return batch

    def _check(self) -> None:
        probabilities = {
            "hflip_probability": self._flips[0],
            "vflip_probability": self._flips[1],
            "rotate_probability": self._rotate_probability,
            "color_probability": self._color_probability,
            "random_shift.probability": self._shift_probability,
        }
        problems = [
            Problem(f"{name} is {value}", fix="Use 0 to 1.")
            for name, value in probabilities.items()
            if not 0.0 <= value <= 1.0
        ]
        if self._rotate_probability > 0 and not self._angles:
            problems.append(Problem("angle_list is empty", fix="List at least one angle, or turn random_rotate off."))
        if not 0.0 <= self._hue <= 0.5:
            problems.append(Problem(f"hue is {self._hue}", fix="Use 0 to 0.5."))
        problems += [
            Problem(f"{name} is {value}", fix="Use 0 or more.") for name, value in self._factors.items() if value < 0
        ]
        if self._shift_max < 0:
            problems.append(Problem(f"random_shift.max_pixels is {self._shift_max}", fix="Use 0 or more."))
        if problems:
            raise DataError(problems)


def crop_box(height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) of a square whose area is U(0.8, 1.2) of the picture's.

    A square that does not fit is drawn again, up to ten times; then it is the largest one, in the middle.
    """
    for _ in range(_CROP_ATTEMPTS):
        side = round(math.sqrt(height * width * generator.uniform(*_CROP_SCALE)))
        if 0 < side <= min(height, width):
            top, left = generator.integers(height - side + 1), generator.integers(width - side + 1)
            return int(top), int(left), side, side
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def shift(pictures: Tensor, down: int, right: int) -> Tensor:
    """Move pictures (..., h, w) by whole pixels; the pixels of the edge are repeated into the gap."""
    for axis, by in ((-2, down), (-1, right)):
        size = pictures.shape[axis]
        by = max(1 - size, min(size - 1, by))
        kept = pictures.narrow(axis, max(0, -by), size - abs(by))
        edge = kept.narrow(axis, 0 if by > 0 else -1, 1)
        gap = [edge] * abs(by)
        pictures = torch.cat([*gap, kept] if by > 0 else [kept, *gap], dim=axis)
    return pictures


def _blur(batch: Tensor, deviation: float) -> Tensor:
    # The kernel's half must be smaller than the picture, whose edge is mirrored.
    radius = min(math.ceil(3.0 * deviation), min(batch.shape[-2:]) - 1)
    if deviation < _LEAST_BLUR or radius < 1:
        return batch
    size = 2 * radius + 1
    blurred: Tensor = transforms.functional.gaussian_blur(batch, [size, size], [deviation, deviation])
    return blurred
