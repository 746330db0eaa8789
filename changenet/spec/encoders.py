"""What the spec must know about encoders, in its own terms; `changenet.model.catalogue` has the facts."""

from __future__ import annotations

from typing import Literal

from changenet.model.catalogue import CATALOGUE, TIMM_PREFIX, Family, backbone_facts


def family(name: str) -> Family | Literal["unknown"]:
    """Say which kind of encoder a name of `model.backbone.type` means.

    >>> family("timm/tf_efficientnet_lite0")
    'timm'
    """
    if name in CATALOGUE:
        return CATALOGUE[name].family
    return "timm" if name.startswith(TIMM_PREFIX) and len(name) > len(TIMM_PREFIX) else "unknown"


def strides(name: str, *, feat_downsample: bool = False) -> tuple[int, ...] | None:
    """Return the strides of the four levels, or None where only the encoder itself knows them (timm).

    >>> strides("fan_tiny_8_p4_hybrid", feat_downsample=True)
    (4, 8, 16, 32)
    """
    known = family(name) != "unknown"
    return backbone_facts(name, feat_downsample=feat_downsample).strides if known else None


def widths(name: str, *, feat_downsample: bool = False) -> tuple[int, ...] | None:
    """Return the channels of the four levels, or None where they are not known here."""
    known = family(name) != "unknown"
    return backbone_facts(name, feat_downsample=feat_downsample).widths if known else None


def side_multiple(name: str, *, learnable: bool, feat_downsample: bool = False) -> int:
    """Return what both sides of the whole picture (all lights together) must be a multiple of, in pixels.

    >>> side_multiple("vit_large_nvdinov2", learnable=False)
    14
    """
    if family(name) == "unknown":
        return 1
    return backbone_facts(name, feat_downsample=feat_downsample).multiple(learnable=learnable)


def default_side(name: str) -> int:
    """Return the side of one light when the spec names none, in pixels."""
    known = name if family(name) != "unknown" else next(iter(CATALOGUE))
    return backbone_facts(known).default_side
