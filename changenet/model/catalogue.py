"""What is known about each encoder before it is built: names, pyramid, picture sizes. Needs no torch.

The numbers of TAO's encoders are fixed; those of a `timm/<name>` encoder are read from timm when it is built.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from changenet.errors import SpecError

TIMM_PREFIX = "timm/"
BACKBONE_KEY = "model.backbone.type"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GOLDEN_CELL = 7  # to compare with several goldens the sides of every level must be multiples of it
DOWNSAMPLED_WIDTH = 768  # of FAN's last level with feat_downsample

FAN_WIDTHS = {
    "fan_tiny_8_p4_hybrid": 192,
    "fan_small_12_p4_hybrid": 384,
    "fan_base_16_p4_hybrid": 448,
    "fan_large_16_p4_hybrid": 480,
}
TAO_BACKBONES = tuple(FAN_WIDTHS)


@dataclass(frozen=True)
class BackboneFacts:
    """What must hold for pictures and spec when this encoder is used.

    Args:
        name: As `model.backbone.type` writes it.
        side_multiple: Height and width of the (concatenated) picture must be multiples of it.
        strides: Of the four pyramid levels, finest first; None when only the built encoder tells.
        widths: Channels of the four levels, likewise.
        head: The head that is used unless one is asked for, `flatten` or `pool`.
    """

    name: str
    side_multiple: int = 1
    strides: tuple[int, ...] | None = None
    widths: tuple[int, ...] | None = None
    head: str = "flatten"


def backbone_facts(name: str, *, feat_downsample: bool = False) -> BackboneFacts:
    """Return what is known about an encoder; whether timm knows a `timm/<name>` shows when it is built.

    Raises:
        SpecError: No such encoder; the nearest name is suggested.

    >>> backbone_facts("fan_tiny_8_p4_hybrid").strides
    (4, 8, 16, 16)
    """
    if name.startswith(TIMM_PREFIX) and len(name) > len(TIMM_PREFIX):
        return BackboneFacts(name, head="pool")
    if name not in FAN_WIDTHS:
        raise unknown_backbone(name, TAO_BACKBONES)
    width = FAN_WIDTHS[name]
    if feat_downsample:
        return BackboneFacts(name, 32, (4, 8, 16, 32), (128, 256, width, DOWNSAMPLED_WIDTH))
    return BackboneFacts(name, 16, (4, 8, 16, 16), (128, 256, width, width))


def unknown_backbone(name: str, known: Iterable[str]) -> SpecError:
    """Return the error for an encoder that does not exist, with the nearest name that does."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    fix = f"Did you mean {nearest[0]!r}?" if nearest else ""
    return SpecError(
        f"there is no encoder {name!r}",
        where=BACKBONE_KEY,
        fix=f"{fix} Allowed: {', '.join(TAO_BACKBONES)}, {TIMM_PREFIX}<name>.".strip(),
    )
