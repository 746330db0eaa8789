from __future__ import annotations

import pytest
import torch

from changenet.errors import SpecError
from changenet.model.backbones import build_backbone, default_normalisation
from changenet.model.backbones.timm_encoder import choose_levels


@pytest.mark.parametrize(
    ("name", "widths", "strides"),
    [
        ("tf_efficientnet_lite0", (24, 40, 112, 320), (4, 8, 16, 32)),
        ("resnet18", (64, 128, 256, 512), (4, 8, 16, 32)),
        ("convnext_atto", (40, 80, 160, 320), (4, 8, 16, 32)),
        ("swin_tiny_patch4_window7_224", (96, 192, 384, 768), (4, 8, 16, 32)),
        ("vit_tiny_patch16_224", (192, 192, 192, 192), (16, 16, 16, 16)),
    ],
)
def test_levels_widths_and_strides_come_from_timm(name: str, widths: tuple[int, ...], strides: tuple[int, ...]) -> None:
    encoder = build_backbone(f"timm/{name}", image_size=(224, 224)).eval()
    assert (encoder.widths, encoder.strides) == (widths, strides)
    with torch.no_grad():
        maps = encoder(torch.zeros(1, 3, 224, 224))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (width, 224 // stride, 224 // stride) for width, stride in zip(widths, strides, strict=True)
    ]
    assert encoder.level_sizes((224, 224)) == tuple(tuple(each.shape[2:]) for each in maps)


def test_model_of_fixed_size_is_built_for_the_picture() -> None:
    encoder = build_backbone("timm/vit_tiny_patch16_224", image_size=(64, 32)).eval()
    assert encoder.level_sizes((64, 32)) == ((4, 2),) * 4


def test_measuring_sizes_leaves_the_encoder_as_it_was() -> None:
    encoder = build_backbone("timm/resnet18", image_size=(64, 64)).train()
    before = {name: each.clone() for name, each in encoder.state_dict().items()}
    encoder.level_sizes((64, 64))
    assert encoder.training
    assert all(torch.equal(before[name], each) for name, each in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("strides", "levels"),
    [
        ([2, 4, 8, 16, 32], [1, 2, 3, 4]),
        ([4, 8, 16, 32], [0, 1, 2, 3]),
        ([1, 2, 4, 8, 16, 32], [2, 3, 4, 5]),
        ([4, 8, 16, 16, 32], [0, 1, 3, 4]),
        ([14] * 12, [2, 5, 8, 11]),
    ],
)
def test_levels_nearest_to_the_wanted_strides_are_chosen(strides: list[int], levels: list[int]) -> None:
    assert choose_levels(strides) == levels


def test_unknown_model_is_told_the_nearest_name() -> None:
    with pytest.raises(SpecError, match="timm/tf_efficientnet_lite0"):
        build_backbone("timm/tf_eficientnet_lite0", image_size=(64, 64))


def test_model_with_too_few_maps_is_refused() -> None:
    with pytest.raises(SpecError, match="at least four feature maps"):
        build_backbone("timm/levit_128", image_size=(224, 224))


def test_normalisation_is_that_of_the_weights() -> None:
    assert default_normalisation("timm/tf_efficientnet_lite0") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert default_normalisation("timm/resnet18")[0] == (0.485, 0.456, 0.406)
    assert default_normalisation("fan_tiny_8_p4_hybrid")[1] == (0.229, 0.224, 0.225)
