"""What the spec must know about encoders: their names, their strides and the sizes they can take."""

from __future__ import annotations

from typing import Literal

Family = Literal["fan", "vit", "timm", "unknown"]

FAN_WIDTHS = {
    "fan_tiny_8_p4_hybrid": (128, 256, 192, 192),
    "fan_small_12_p4_hybrid": (128, 256, 384, 384),
    "fan_base_16_p4_hybrid": (128, 256, 448, 448),
    "fan_large_16_p4_hybrid": (128, 256, 480, 480),
}
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
TIMM_PREFIX = "timm/"


def family(name: str) -> Family:
    """Say which kind of encoder a name of `model.backbone.type` means.

    >>> family("timm/tf_efficientnet_lite0")
    'timm'
    """
    if name in FAN_WIDTHS:
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
            return (4, 8, 16, 32 if feat_downsample else 16)
        case "vit":
            return (4, 8, 16, 32)
        case _:
            return None


def side_multiple(name: str, *, learnable: bool, feat_downsample: bool = False) -> int:
    """Return what both sides of the whole picture (all lights together) must be a multiple of, in pixels.

    >>> side_multiple("vit_large_nvdinov2", learnable=False)
    14
    """
    match family(name):
        case "fan":
            return 32 if feat_downsample else 16
        case "vit":
            return 32 if learnable else 14 if name == "vit_large_nvdinov2" else 16
        case _:
            return 1


def default_side(name: str) -> int:
    """Return the side of one light when the spec names none, in pixels."""
    return 224 if family(name) == "vit" else 128
