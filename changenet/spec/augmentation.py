"""`dataset.classify.augmentation_config`: random changes of training pairs, alike for test and golden."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from changenet.spec.section import Fraction, Number, Positive, Section

Channels = tuple[Number, Number, Number]
Deviations = tuple[Annotated[Number, Field(gt=0)], Annotated[Number, Field(gt=0)], Annotated[Number, Field(gt=0)]]
Strength = Annotated[Number, Field(ge=0)]


class RandomFlip(Section):
    """Mirror images."""

    enable: bool = Field(default=True, description="Use flips.")
    hflip_probability: Fraction = Field(default=0.5, description="Probability of a left-right flip.")
    vflip_probability: Fraction = Field(default=0.5, description="Probability of an upside-down flip.")


class RandomRotate(Section):
    """Rotations by one of a few angles."""

    enable: bool = Field(default=True, description="Use rotations.")
    rotate_probability: Fraction = Field(default=0.5, description="Probability of a rotation.")
    angle_list: Annotated[tuple[Number, ...], Field(min_length=1)] = Field(
        default=(90.0, 180.0, 270.0), description="Angles in degrees, all equally likely."
    )


class RandomColor(Section):
    """Changes of brightness and colour."""

    enable: bool = Field(default=True, description="Use colour changes.")
    brightness: Strength = Field(default=0.3, description="Factor between 1 - value and 1 + value.")
    contrast: Strength = Field(default=0.3, description="Factor between 1 - value and 1 + value.")
    saturation: Strength = Field(default=0.3, description="Factor between 1 - value and 1 + value.")
    hue: Annotated[Number, Field(ge=0, le=0.5)] = Field(
        default=0.3, description="Shift between -value and +value of the circle."
    )
    color_probability: Fraction = Field(default=0.5, description="Probability of a colour change.")


class ScaleRandomCrop(Section):
    """Enlarging and cropping back (segmentation)."""

    enable: bool = Field(default=True, description="Segmentation only.")
    scale_range: Annotated[tuple[Annotated[Number, Field(gt=0)], ...], Field(min_length=2, max_length=2)] = Field(
        default=(1.0, 1.2), description="Segmentation only."
    )


class RandomShift(Section):
    """Misregistration: the golden moves against the test picture (not in TAO)."""

    enable: bool = Field(
        default=False, description="Shift the golden against the test picture: misregistration is no defect."
    )
    max_pixels: Positive = Field(default=6, description="Largest shift along each axis, in pixels of one light.")
    probability: Fraction = Field(default=0.5, description="Probability of a shift.")


class ClassifyAugmentation(Section):
    """`dataset.classify.augmentation_config`."""

    augment: bool = Field(default=False, description="Master switch; training only.")
    rgb_input_mean: Channels | None = Field(
        default=None,
        description="Mean of each channel at 0-1. Unset: the encoder's (FAN: ImageNet's 0.485, 0.456, 0.406).",
    )
    rgb_input_std: Deviations | None = Field(
        default=None,
        description="Deviation of each channel at 0-1. Unset: the encoder's (FAN: ImageNet's 0.229, 0.224, 0.225).",
    )
    random_flip: RandomFlip = RandomFlip()
    random_rotate: RandomRotate = RandomRotate()
    random_color: RandomColor = RandomColor()
    with_random_crop: bool = Field(default=True, description="Crop every sample at random and scale it back.")
    with_random_blur: bool = Field(default=True, description="Blur every sample by a random radius of 0 to 1 pixel.")
    with_scale_random_crop: ScaleRandomCrop = ScaleRandomCrop()
    random_shift: RandomShift = RandomShift()


class SegmentAugmentation(Section):
    """`dataset.segment.augmentation`."""

    augment: bool = Field(default=False, description="Master switch.")
    mean: Channels = Field(default=(0.5, 0.5, 0.5), description="Mean of each channel.")
    std: Deviations = Field(default=(0.5, 0.5, 0.5), description="Deviation of each channel.")
    random_flip: RandomFlip = RandomFlip()
    random_rotate: RandomRotate = RandomRotate()
    random_color: RandomColor = RandomColor()
    with_random_crop: bool = Field(default=True, description="Crop at random.")
    with_random_blur: bool = Field(default=True, description="Blur at random.")
    with_scale_random_crop: ScaleRandomCrop = ScaleRandomCrop()
