from __future__ import annotations

import pytest
import torch

from changenet.errors import SpecError
from changenet.model.backbones import Request, build_backbone, default_normalisation
from changenet.model.backbones.timm_encoder import choose_levels
from changenet.model.network import ChangeNet


@pytest.mark.parametrize(
    ("name", "widths", "strides"),
    [
        ("tf_efficientnet_lite0", (24, 40, 112, 320), (4, 8, 16, 32)),
        ("resnet18", (64, 128, 256, 512), (4, 8, 16, 32)),
        ("convnext_atto", (40, 80, 160, 320), (4, 8, 16, 32)),
        ("swin_tiny_patch4_window7_224", (96, 192, 384, 768), (4, 8, 16, 32)),
        ("deit_tiny_distilled_patch16_224", (192, 192, 192, 192), (16, 16, 16, 16)),
        ("vit_tiny_patch16_224", (192, 192, 192, 192), (4, 8, 16, 32)),
    ],
)
def test_levels_widths_and_strides_come_from_timm(name: str, widths: tuple[int, ...], strides: tuple[int, ...]) -> None:
    encoder = build_backbone(f"timm/{name}", Request(image_size=(224, 224))).eval()
    assert (encoder.widths, encoder.strides) == (widths, strides)
    with torch.no_grad():
        maps = encoder(torch.zeros(1, 3, 224, 224))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (width, 224 // stride, 224 // stride) for width, stride in zip(widths, strides, strict=True)
    ]
    assert encoder.level_sizes((224, 224)) == tuple(tuple(each.shape[2:]) for each in maps)


def test_model_of_fixed_size_is_built_for_the_picture() -> None:
    encoder = build_backbone("timm/deit_tiny_distilled_patch16_224", Request(image_size=(64, 32))).eval()
    assert encoder.level_sizes((64, 32)) == ((4, 2),) * 4


FAMILIES = (
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "vit_tiny_patch16_224",
)


@pytest.mark.parametrize("kind", ["learnable", "euclidean"])
@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_timm_learn(name: str, kind: str) -> None:
    torch.manual_seed(0)
    network = ChangeNet(backbone=f"timm/{name}", difference_module=kind, image_size=(64, 64), embed_dim=16).train()
    output = network(*torch.randn(2, 3, 3, 64, 64))
    assert output.shape == ((3, 2) if kind == "learnable" else (3,))
    output.square().sum().backward()
    idle = [key for key, each in network.named_parameters() if each.requires_grad and each.grad is None]
    assert not idle
    assert all(torch.isfinite(each.grad).all() for each in network.parameters() if each.grad is not None)


def test_plain_transformers_get_an_adapter_or_give_their_vector() -> None:
    size = (64, 32)
    adapter = build_backbone("timm/vit_tiny_patch16_224", Request(size))
    vector = build_backbone("timm/vit_tiny_patch16_224", Request(size, vector=True))
    assert adapter.level_sizes(size) == ((16, 8), (8, 4), (4, 2), (2, 1))
    assert adapter.vector_width is None
    assert vector.vector_width == 192
    with torch.no_grad():
        assert [each.shape for each in vector.eval()(torch.randn(2, 3, *size))] == [(2, 192)]


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_small_patch32_224", "eva02_tiny_patch14_224"])
def test_patches_of_any_size_become_sixteen_pixels_for_the_adapter(name: str) -> None:
    with torch.device("meta"):
        encoder = build_backbone(f"timm/{name}", Request((64, 64)))
        maps = encoder(torch.zeros(1, 3, 64, 64))
    assert [each.shape[2] for each in maps] == [16, 8, 4, 2]


@pytest.mark.parametrize(("vector", "side", "unit"), [(False, 48, 32), (True, 100, 16)])
def test_plain_transformer_names_the_sides_that_it_takes(vector: bool, side: int, unit: int) -> None:
    with pytest.raises(SpecError, match=f"multiples of {unit}"):
        build_backbone("timm/vit_tiny_patch16_224", Request((side, side), vector=vector))


def test_measuring_sizes_leaves_the_encoder_as_it_was() -> None:
    encoder = build_backbone("timm/resnet18", Request(image_size=(64, 64))).train()
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
        build_backbone("timm/tf_eficientnet_lite0", Request(image_size=(64, 64)))


def test_model_with_too_few_maps_is_refused() -> None:
    with pytest.raises(SpecError, match="at least four feature maps"):
        build_backbone("timm/levit_128", Request(image_size=(224, 224)))


def test_normalisation_is_that_of_the_weights() -> None:
    assert default_normalisation("timm/tf_efficientnet_lite0") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert default_normalisation("timm/resnet18")[0] == (0.485, 0.456, 0.406)
    assert default_normalisation("fan_tiny_8_p4_hybrid")[1] == (0.229, 0.224, 0.225)
