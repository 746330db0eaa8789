"""DINOv3 encoders, as timm has them."""

from __future__ import annotations

from typing import Any

from changenet.model.backbones.adapter import vit_encoder
from changenet.model.backbones.registry import Backbone, Request, register
from changenet.model.backbones.timm_vit import TimmVit
from changenet.torchvision_compat import timm

DROP_PATH = 0.4
TIMM_NAMES = {
    f"vit_{size}_dinov3": f"vit_{size}_patch16_dinov3"
    for size in ("small", "small_plus", "base", "large", "huge_plus", "7b")
}


@register(*TIMM_NAMES)
def build_dinov3(name: str, request: Request) -> Backbone:
    """Build the variant `name`."""
    return dinov3(TIMM_NAMES[name], request)


def dinov3(timm_name: str, request: Request, **sizes: Any) -> Backbone:
    """Build an encoder of this kind.

    Args:
        timm_name: timm's name of the model.
        request: What is asked for.
        sizes: Arguments of the timm model that replace its own, e.g. `depth`.
    """
    model = timm.create_model(
        timm_name,
        pretrained=False,
        num_classes=0,
        global_pool="token",
        img_size=request.image_size,
        drop_path_rate=0.0 if request.vector else DROP_PATH,
        **sizes,
    )
    return vit_encoder(TimmVit(model), request, drop_path=DROP_PATH)
