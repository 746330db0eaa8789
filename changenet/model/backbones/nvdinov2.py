"""NV-DINOv2 large: NVIDIA's DINOv2."""

from __future__ import annotations

from typing import Any

from torch import nn

from changenet.model.backbones.adapter import vit_encoder
from changenet.model.backbones.registry import Backbone, Request, register
from changenet.model.backbones.timm_vit import TimmVit
from changenet.model.backbones.vit import PATCH
from changenet.torchvision_compat import timm

NATIVE_PATCH, NATIVE_SIDE = 14, 518
DROP_PATH = 0.4
SURPLUS = 0.1  # see `resample_grid`
LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16, "mlp_ratio": 5472 / 1024}


@register("vit_large_nvdinov2")
def build_nvdinov2(_: str, request: Request) -> Backbone:
    """Build the encoder: patches of 14 pixels and positions for 518 x 518 for the vector, 16 and the picture's else."""
    return nvdinov2(request, **LARGE)


def nvdinov2(request: Request, **sizes: Any) -> Backbone:
    """Build an encoder of this kind.

    Args:
        request: What is asked for.
        sizes: `embed_dim`, `depth`, `num_heads` and `mlp_ratio` of timm's `VisionTransformer`.
    """
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=NATIVE_SIDE if request.vector else request.image_size,
        patch_size=NATIVE_PATCH if request.vector else PATCH,
        num_classes=0,
        init_values=1e-5,
        mlp_layer=timm.layers.SwiGLUPacked,
        act_layer=nn.SiLU,
        drop_path_rate=0.0 if request.vector else DROP_PATH,
        dynamic_img_size=True,
        **sizes,
    )
    # TAO fuses the class token whatever the spec says.
    return vit_encoder(TimmVit(model, surplus=SURPLUS), request, use_summary_token=True, drop_path=DROP_PATH)
