from __future__ import annotations

import subprocess
import sys

import pytest

from changenet.errors import SpecError
from changenet.model.backbones import Request, build_backbone, default_normalisation
from changenet.model.catalogue import CATALOGUE, CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, backbone_facts, listing


def test_catalogue_needs_no_torch() -> None:
    code = "import sys, changenet.model.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "downsample"), [("fan_tiny_8_p4_hybrid", True), *((name, False) for name in CATALOGUE)]
)
def test_catalogue_agrees_with_the_built_encoder(name: str, downsample: bool) -> None:
    import torch

    facts = backbone_facts(name, feat_downsample=downsample)
    with torch.device("meta"):
        encoder = build_backbone(name, Request(image_size=(224, 224), feat_downsample=downsample))
        maps = encoder(torch.zeros(1, 3, 64, 32))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (width, 64 // stride, 32 // stride) for width, stride in zip(facts.widths, facts.strides, strict=True)
    ]
    assert facts.side_multiple == max(facts.strides)
    if not downsample:
        assert facts.parameters == sum(each.numel() for each in encoder.parameters())


@pytest.mark.parametrize("name", [name for name in CATALOGUE if backbone_facts(name).family == "vit"])
def test_catalogue_agrees_with_the_encoder_that_gives_a_vector(name: str) -> None:
    import torch

    facts = backbone_facts(name)
    side = 2 * facts.multiple(learnable=False)
    with torch.device("meta"):
        encoder = build_backbone(name, Request(image_size=(side, side), vector=True))
        (vector,) = encoder(torch.zeros(1, 3, side, side))
    assert vector.shape == (1, encoder.vector_width)
    assert facts.vector_parameters == sum(each.numel() for each in encoder.parameters())


def test_misspelt_encoder_is_told_the_nearest_name() -> None:
    with pytest.raises(SpecError, match="fan_small_12_p4_hybrid") as caught:
        backbone_facts("fan_small_p4_hybrid")
    assert caught.value.problems[0].where == "model.backbone.type"


def test_listing_tells_what_a_user_chooses_by() -> None:
    listed = {facts.name: facts for facts in listing()}
    assert len(listed) == 18
    assert listed["vit_large_nvdinov2"].input_rule == "square, multiples of 32 (euclidean: of 14)"
    assert listed["fan_tiny_8_p4_hybrid"].input_rule == "sides are multiples of 16"
    assert listed["c_radio_v2_vit_base_patch16_224"].licence == "NVIDIA Open Model License"
    assert listed["timm/<name>"].parameters is None
    assert all(facts.licence and facts.input_rule for facts in listed.values())


def test_radio_expects_the_statistics_of_clip() -> None:
    assert default_normalisation("c_radio_v2_vit_base_patch16_224") == (CLIP_MEAN, CLIP_STD)
    assert default_normalisation("vit_base_dinov3")[0] == IMAGENET_MEAN
