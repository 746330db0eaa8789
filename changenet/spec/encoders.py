"""What the spec must know about encoders, in its own terms; `changenet.model.catalogue` has the facts."""

from __future__ import annotations

from typing import Literal

from changenet.model.catalogue import CATALOGUE, TIMM_PREFIX, BackboneFacts, Family, backbone_facts


def family(name: str) -> Family | Literal["unknown"]:
    """Say which kind of encoder a name of `model.backbone.type` means.

    >>> family("timm/tf_efficientnet_lite0")
    'timm'
    """
    if name in CATALOGUE:
        return CATALOGUE[name].family
    return "timm" if name.startswith(TIMM_PREFIX) and len(name) > len(TIMM_PREFIX) else "unknown"


def known_facts(name: str, *, feat_downsample: bool = False) -> BackboneFacts:
    """Return what is known about an encoder; of an unknown one nothing, so that the checks of other keys can go on.

    >>> known_facts("fan_tiny_8_p4_hybrid", feat_downsample=True).strides
    (4, 8, 16, 32)
    """
    return BackboneFacts(name) if family(name) == "unknown" else backbone_facts(name, feat_downsample=feat_downsample)
