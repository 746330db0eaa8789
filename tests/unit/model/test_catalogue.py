from __future__ import annotations

import subprocess
import sys

import pytest

from changenet.errors import SpecError
from changenet.model.backbones import build_backbone
from changenet.model.catalogue import TAO_BACKBONES, backbone_facts


def test_catalogue_needs_no_torch() -> None:
    code = "import sys, changenet.model.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "downsample"), [("fan_tiny_8_p4_hybrid", True), *((name, False) for name in TAO_BACKBONES)]
)
def test_catalogue_agrees_with_the_built_encoder(name: str, downsample: bool) -> None:
    import torch

    facts = backbone_facts(name, feat_downsample=downsample)
    with torch.device("meta"):
        encoder = build_backbone(name, image_size=(64, 32), feat_downsample=downsample)
        maps = encoder(torch.zeros(1, 3, 64, 32))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (width, 64 // stride, 32 // stride) for width, stride in zip(facts.widths, facts.strides, strict=True)
    ]
    assert facts.side_multiple == max(facts.strides)


def test_misspelt_encoder_is_told_the_nearest_name() -> None:
    with pytest.raises(SpecError, match="fan_small_12_p4_hybrid") as caught:
        backbone_facts("fan_small_p4_hybrid")
    assert caught.value.problems[0].where == "model.backbone.type"
