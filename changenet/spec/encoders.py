"""What the spec must know about encoders beside `changenet.model.catalogue`: families, ViT names, sizes they can take."""

from __future__ import annotations

from typing import Literal

from changenet.model.catalogue import FAN_WIDTHS, TIMM_PREFIX, backbone_facts

Family = Literal["fan", "vit", "timm", "unknown"]

FAN_NAMES = tuple(FAN_WIDTHS)
VIT_NAMES = (
    "vit_large_nvdinov2",
    "c_radio_p1_vit_huge_patch16_224_mlpnorm",
    "c_radio_p2_vit_huge_patch16_224_mlpnorm",
    "c_radio_p3_vit_huge_patch16_224_mlpnorm",
    "c_radio_v2_vit_huge_patch16_224",
    "c_radio_v2_vit_large_patch16_224",
    "c_radio_v2_vit_base_patch16_224",
    "vit_small_dinov3",
    "vit_small_plus_dinov3",
    "vit_base_dinov3",
    "vit_large_dinov3",
    "vit_huge_plus_dinov3",
    "vit_7b_dinov3",
)


def family(name: str) -> Family:
    """Say which kind of encoder a name of `model.backbone.type` means.

    >>> family("timm/tf_efficientnet_lite0")
    'timm'
    """
    if name in FAN_NAMES:
        return "fan"
    if name in VIT_NAMES:
        return "vit"
    return "timm" if name.startswith(TIMM_PREFIX) and len(name) > len(TIMM_PREFIX) else "unknown"


def strides(name: str, *, feat_downsample: bool = False) -> tuple[int, ...] | None:
    """Return the strides of the four levels, or None where only the encoder itself knows them (timm).

    >>> strides("fan_tiny_8_p4_hybrid", feat_downsample=True)
    (4, 8, 16, 32)
    """
    match family(name):
        case "fan":
            return backbone_facts(name, feat_downsample=feat_downsample).strides
        case "vit":
            return (4, 8, 16, 32)
        case _:
            return None


def widths(name: str, *, feat_downsample: bool = False) -> tuple[int, ...] | None:
    """Return the channels of the four levels, or None where they are not known here."""
    return backbone_facts(name, feat_downsample=feat_downsample).widths if family(name) == "fan" else None


def side_multiple(name: str, *, learnable: bool, feat_downsample: bool = False) -> int:
    """Return what both sides of the whole picture (all lights together) must be a multiple of, in pixels.

    >>> side_multiple("vit_large_nvdinov2", learnable=False)
    14
    """
    match family(name):
        case "fan":
            return backbone_facts(name, feat_downsample=feat_downsample).side_multiple
        case "vit":
            return 32 if learnable else 14 if name == "vit_large_nvdinov2" else 16
        case _:
            return 1


def default_side(name: str) -> int:
    """Return the side of one light when the spec names none, in pixels."""
    return 224 if family(name) == "vit" else 128
