"""What is known about each encoder before it is built: names, pyramid, picture sizes, licences. Needs no torch.

The numbers of TAO's encoders are fixed; those of a `timm/<name>` encoder are read from timm when it is built.

A new encoder is one file in `changenet.model.backbones`, with a builder under `@register(name)`, and one line here.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from changenet.errors import SpecError

Family = Literal["fan", "vit", "convolutional", "timm"]
TIMM_PREFIX = "timm/"
BACKBONE_KEY = "model.backbone.type"
Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
GOLDEN_CELL = 7  # to compare with several goldens the sides of every level must be multiples of it
DOWNSAMPLED_WIDTH = 768  # of FAN's last level with feat_downsample
# Names of licences; whoever brings weights must read them.
MODEL_CARD = "as the model card of the weights says"
NGC_CARD = "NVIDIA, as the model card on NGC says"
OPEN_MODEL = "NVIDIA Open Model License"
DINOV3 = "DINOv3 License"


@dataclass(frozen=True)
class BackboneFacts:
    """What must hold for pictures and spec when this encoder is used.

    Args:
        name: As `model.backbone.type` writes it.
        family: `fan`; `vit`: square pictures and an adapter; `convolutional`: any other encoder with a builder of its own;
            `timm`.
        module: Of `changenet.model.backbones`; importing it registers the builder.
        side_multiple: Height and width of the (concatenated) picture must be multiples of it.
        vector_multiple: The same for a euclidean network that gets one vector from the encoder; None where it gets a
            map.
        strides: Of the four pyramid levels, finest first; None when only the built encoder tells.
        widths: Channels of the four levels, likewise.
        head: The head that is used unless one is asked for, `flatten` or `pool`.
        parameters: Of the encoder in a learnable network at 224 x 224; None when only the built encoder tells.
        vector_parameters: Of the encoder that gives a vector.
        licence: Of the public weights, if there are any.
        mean: Of the pixels (0-1) that the weights were made for; None when only timm tells.
        std: Likewise.
    """

    name: str
    family: Family = "timm"
    module: str = "timm_encoder"
    side_multiple: int = 1
    vector_multiple: int | None = None
    strides: tuple[int, ...] | None = None
    widths: tuple[int, ...] | None = None
    head: Literal["flatten", "pool"] = "flatten"
    parameters: int | None = None
    vector_parameters: int | None = None
    licence: str = MODEL_CARD
    mean: Triple | None = None
    std: Triple | None = None

    @property
    def input_rule(self) -> str:
        """What sides the picture may have, in words."""
        if self.family == "timm":
            return "most: any sides; plain transformers: multiples of 32 (euclidean: of the patch)"
        if self.vector_multiple is None:
            return "any sides" if self.side_multiple == 1 else f"sides are multiples of {self.side_multiple}"
        return f"square, multiples of {self.side_multiple} (euclidean: of {self.vector_multiple})"

    @property
    def default_side(self) -> int:
        """The side of one light, in pixels, when a spec names none."""
        return 224 if self.family == "vit" else 128

    def multiple(self, *, learnable: bool) -> int:
        """Return what both sides must be multiples of."""
        return self.side_multiple if learnable or self.vector_multiple is None else self.vector_multiple


def _fan(name: str, *, width: int, parameters: int) -> BackboneFacts:
    return BackboneFacts(
        name,
        "fan",
        "fan",
        side_multiple=16,
        strides=(4, 8, 16, 16),
        widths=(128, 256, width, width),
        parameters=parameters,
        licence=NGC_CARD,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _vit(
    name: str,
    module: str,
    *,
    width: int,
    parameters: int,
    vector_parameters: int,
    licence: str,
    vector_multiple: int = 16,
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
) -> BackboneFacts:
    return BackboneFacts(
        name,
        "vit",
        module,
        side_multiple=32,
        vector_multiple=vector_multiple,
        strides=(4, 8, 16, 32),
        widths=(width,) * 4,
        parameters=parameters,
        vector_parameters=vector_parameters,
        licence=licence,
        mean=mean,
        std=std,
    )


_radio = partial(_vit, module="radio", licence=OPEN_MODEL, mean=CLIP_MEAN, std=CLIP_STD)
_radio_huge = partial(_radio, width=1280, parameters=725_310_616, vector_parameters=651_980_800, licence=NGC_CARD)
_dinov3 = partial(_vit, module="dinov3", licence=DINOV3)

CATALOGUE = {
    facts.name: facts
    for facts in (
        _fan("fan_tiny_8_p4_hybrid", width=192, parameters=7_273_856),
        _fan("fan_small_12_p4_hybrid", width=384, parameters=25_732_176),
        _fan("fan_base_16_p4_hybrid", width=448, parameters=50_025_152),
        _fan("fan_large_16_p4_hybrid", width=480, parameters=76_373_180),
        _vit(
            "vit_large_nvdinov2",
            "nvdinov2",
            width=1024,
            parameters=336_123_672,
            vector_parameters=304_793_856,
            licence=NGC_CARD,
            vector_multiple=14,
        ),
        _radio("c_radio_v2_vit_base_patch16_224", width=768, parameters=121_709_464, vector_parameters=98_233_344),
        _radio("c_radio_v2_vit_large_patch16_224", width=1024, parameters=359_567_896, vector_parameters=319_881_216),
        _radio("c_radio_v2_vit_huge_patch16_224", width=1280, parameters=711_865_496, vector_parameters=651_642_880),
        _radio_huge("c_radio_p1_vit_huge_patch16_224_mlpnorm"),
        _radio_huge("c_radio_p2_vit_huge_patch16_224_mlpnorm"),
        _radio_huge("c_radio_p3_vit_huge_patch16_224_mlpnorm"),
        _dinov3("vit_small_dinov3", width=384, parameters=28_414_936, vector_parameters=21_586_944),
        _dinov3("vit_small_plus_dinov3", width=384, parameters=35_511_256, vector_parameters=28_683_264),
        _dinov3("vit_base_dinov3", width=768, parameters=107_347_864, vector_parameters=85_641_216),
        _dinov3("vit_large_dinov3", width=1024, parameters=339_620_376, vector_parameters=303_079_424),
        _dinov3("vit_huge_plus_dinov3", width=1280, parameters=895_816_856, vector_parameters=840_509_440),
        _dinov3("vit_7b_dinov3", width=4096, parameters=7_237_292_056, vector_parameters=6_716_030_976),
    )
}


def listing() -> tuple[BackboneFacts, ...]:
    """Return the facts of every encoder; the last entry stands for all of timm's.

    >>> listing()[0].licence
    'NVIDIA, as the model card on NGC says'
    """
    return (*CATALOGUE.values(), backbone_facts(f"{TIMM_PREFIX}<name>"))


def backbone_facts(name: str, *, feat_downsample: bool = False) -> BackboneFacts:
    """Return what is known about an encoder; whether timm knows a `timm/<name>` shows when it is built.

    Args:
        name: As `model.backbone.type` writes it.
        feat_downsample: FAN only: the last level gets stride 32 and 768 channels.

    Raises:
        SpecError: No such encoder; the nearest name is suggested.

    >>> backbone_facts("fan_tiny_8_p4_hybrid").strides
    (4, 8, 16, 16)
    """
    if name.startswith(TIMM_PREFIX) and len(name) > len(TIMM_PREFIX):
        return BackboneFacts(name, head="pool")
    if name not in CATALOGUE:
        raise unknown_backbone(name, CATALOGUE)
    facts = CATALOGUE[name]
    if facts.family == "fan" and feat_downsample:
        assert facts.widths is not None
        widths = (*facts.widths[:3], DOWNSAMPLED_WIDTH)
        return dataclasses.replace(facts, side_multiple=32, strides=(4, 8, 16, 32), widths=widths)
    return facts


def unknown_backbone(name: str, known: Iterable[str]) -> SpecError:
    """Return the error for an encoder that does not exist, with the nearest name that does."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    fix = f"Did you mean {nearest[0]!r}?" if nearest else ""
    return SpecError(
        f"there is no encoder {name!r}",
        where=BACKBONE_KEY,
        fix=f"{fix} Allowed: {', '.join(CATALOGUE)}, {TIMM_PREFIX}<name>.".strip(),
    )
