"""Networks on plain vision transformers: with a ViT-Adapter, or on one vector."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from changenet.errors import SpecError
from changenet.model.backbones.radio import RADIO_SETTINGS
from changenet.model.network import ChangeNet

Pictures = Callable[..., tuple[torch.Tensor, torch.Tensor]]
Make = Callable[..., ChangeNet]
pytestmark = pytest.mark.usefixtures("tiny_vits")

SIZE = (64, 64)
TINY = ("tiny_radio", "tiny_nvdinov2", "tiny_dinov3")
KINDS: list[dict[str, Any]] = [
    *({"backbone": name, "image_size": SIZE} for name in TINY),
    *({"backbone": name, "image_size": (112, 112), "difference_module": "euclidean"} for name in TINY),
]

# Reference, section 4.8: pictures of 224 x 224, embed_dec 30, embedding 5.
COUNTS = [
    ("c_radio_v2_vit_base_patch16_224", {}, 153_927_438, 121_709_464),
    ("c_radio_v2_vit_base_patch16_224", {"use_summary_token": False}, 144_486_414, 112_268_440),
    ("c_radio_v2_vit_base_patch16_224", {"num_golden": 4}, 155_003_918, 121_709_464),
    ("c_radio_v2_vit_base_patch16_224", {"difference_module": "euclidean"}, 99_680_773, 98_233_344),
    ("c_radio_v2_vit_large_patch16_224", {}, 392_048_014, 359_567_896),
    ("c_radio_v2_vit_large_patch16_224", {"difference_module": "euclidean"}, 321_721_861, 319_881_216),
    ("vit_large_nvdinov2", {}, 368_603_790, 336_123_672),
    ("vit_large_nvdinov2", {"difference_module": "euclidean"}, 305_585_925, 304_793_856),
    ("c_radio_v2_vit_huge_patch16_224", {}, 744_607_758, 711_865_496),
    ("c_radio_v2_vit_huge_patch16_224", {"difference_module": "euclidean"}, 653_876_741, 651_642_880),
    ("vit_small_dinov3", {}, 60_239_694, 28_414_936),
    ("vit_small_dinov3", {"difference_module": "euclidean"}, 22_051_333, 21_586_944),
    ("vit_base_dinov3", {}, 139_565_838, 107_347_864),
    ("vit_base_dinov3", {"difference_module": "euclidean"}, 86_302_213, 85_641_216),
    ("vit_large_dinov3", {}, 372_100_494, 339_620_376),
    ("vit_large_dinov3", {"difference_module": "euclidean"}, 303_871_493, 303_079_424),
    *(
        (f"c_radio_{series}_vit_huge_patch16_224_mlpnorm", changes, total, encoder)
        for series, changes, total, encoder in (
            ("p1", {}, 758_052_878, 725_310_616),
            ("p1", {"difference_module": "euclidean"}, 654_214_661, 651_980_800),
            ("p2", {}, 758_052_878, 725_310_616),
            ("p2", {"difference_module": "euclidean"}, 654_870_021, 651_980_800),
            ("p3", {}, 758_052_878, 725_310_616),
            ("p3", {"difference_module": "euclidean"}, 654_214_661, 651_980_800),
        )
    ),
]


@pytest.mark.parametrize(("backbone", "changes", "total", "encoder"), COUNTS)
def test_parameter_counts_are_those_of_the_reference(
    backbone: str, changes: dict[str, Any], total: int, encoder: int
) -> None:
    with torch.device("meta"):
        network = ChangeNet(**{"backbone": backbone, "image_size": (224, 224), **changes})
    assert sum(each.numel() for each in network.backbone.parameters()) == encoder
    assert sum(each.numel() for each in network.parameters()) == total


@pytest.mark.parametrize("changes", KINDS)
def test_network_equals_its_parts(changes: dict[str, Any], make_network: Make, pictures: Pictures) -> None:
    network = make_network(**changes)
    test, golden = pictures(size=changes["image_size"])
    with torch.no_grad():
        whole = network(test, golden)
        parts = network.compare(network.encode(test), network.prepare_golden(network.encode(golden)))
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", KINDS)
def test_order_matters_to_the_learned_difference_only(
    changes: dict[str, Any], make_network: Make, pictures: Pictures
) -> None:
    network = make_network(**changes)
    test, golden = pictures(size=changes["image_size"])
    with torch.no_grad():
        one, other = network(test, golden), network(golden, test)
    if "difference_module" in changes:
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    else:
        assert not torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("changes", KINDS)
def test_arguments_rebuild_the_network(changes: dict[str, Any], make_network: Make, pictures: Pictures) -> None:
    network = make_network(**changes, use_summary_token=False)
    twin = ChangeNet(**json.loads(json.dumps(network.arguments))).eval()
    twin.load_state_dict(network.state_dict())
    pair = pictures(size=changes["image_size"])
    with torch.no_grad():
        assert torch.equal(network(*pair), twin(*pair))


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("changes", KINDS)
def test_every_trainable_weight_gets_a_gradient(
    changes: dict[str, Any], levels: int, make_network: Make, pictures: Pictures
) -> None:
    """Data-parallel training waits for ever for a weight that gets none."""
    network = make_network(**changes, learnable_difference_modules=levels).train()
    for each in network.backbone.modules():  # a residual that is dropped for every sample would hide its weights
        if type(each).__name__ == "DropPath":
            each.drop_prob = 0.0
    output = network(*pictures(batch=4, size=changes["image_size"]))
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    idle = [name for name, each in network.named_parameters() if each.requires_grad and each.grad is None]
    assert not idle
    assert all(torch.isfinite(each.grad).all() for each in network.parameters() if each.grad is not None)


@pytest.mark.parametrize("side", [32, 64, 256])
@pytest.mark.parametrize("backbone", TINY)
def test_adapter_takes_any_multiple_of_32(backbone: str, side: int) -> None:
    network = ChangeNet(backbone=backbone, image_size=(side, side), embed_dim=8, embed_dec=6).eval()
    with torch.no_grad():
        assert network(*torch.randn(2, 1, 3, side, side)).shape == (1, 2)
        assert [each.shape[2] for each in network.backbone(torch.randn(1, 3, side, side))] == [
            side // stride for stride in (4, 8, 16, 32)
        ]
    with pytest.raises(SpecError, match="multiples of 32"):
        ChangeNet(backbone=backbone, image_size=(side + 16, side + 16))


@pytest.mark.parametrize("backbone", TINY)
def test_pooled_head_takes_any_size(backbone: str, make_network: Make) -> None:
    network = make_network(backbone=backbone, image_size=SIZE, head="pool")
    with torch.no_grad():
        for size in [(64, 64), (96, 96), (64, 128)]:
            assert torch.isfinite(network(*torch.randn(2, 2, 3, *size))).all()


@pytest.mark.parametrize("backbone", TINY)
def test_maps_stay_close_in_half_precision(backbone: str, make_network: Make, pictures: Pictures) -> None:
    encoder = make_network(backbone=backbone, image_size=SIZE).backbone
    picture, _ = pictures(size=SIZE)
    with torch.no_grad():
        exact = encoder(picture)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = encoder(picture)
    for one, other in zip(exact, rough, strict=True):
        assert (other.float() - one).norm() < 0.06 * one.norm()  # bfloat16 keeps eight bits of a number


def test_radio_sees_random_windows_in_training_and_one_grid_in_evaluation() -> None:
    torch.manual_seed(0)
    backbone = ChangeNet(backbone="tiny_radio", image_size=(48, 48), difference_module="euclidean").backbone
    picture = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        backbone.eval()
        assert torch.equal(backbone(picture)[0], backbone(picture)[0])
        same = backbone(picture.expand(8, -1, -1, -1))[0]
        torch.testing.assert_close(same, same[:1].expand(8, -1))
        backbone.train()
        different = backbone(picture.expand(8, -1, -1, -1))[0]
        assert (different[1:] - different[:1]).abs().amax(dim=1).min() > 1e-4


def test_radio_shrinks_its_grid_and_cuts_the_window_of_the_picture() -> None:
    backbone = ChangeNet(backbone="tiny_radio", image_size=(64, 64), difference_module="euclidean").backbone
    vit = backbone.vit.eval()
    rows = torch.linspace(0, 1, 128)
    vit.position_grid.data = rows.repeat_interleave(128)[None, :, None].expand(1, -1, 32).clone()  # its row
    torch.nn.init.zeros_(vit.embed.weight)
    with torch.no_grad():
        tokens, _ = vit.tokens(torch.zeros(1, 3, 48, 80))  # 3 x 5 patches: the grid of 5 x 5, its first 3 rows
    patches = tokens[0, vit.extra :, 0].reshape(3, 5)
    torch.testing.assert_close(patches, torch.tensor([0.0, 0.25, 0.5])[:, None].expand(3, 5))


def test_radio_windows_keep_inside_the_grid_and_some_samples_see_none() -> None:
    torch.manual_seed(0)
    vit = ChangeNet(backbone="tiny_radio", image_size=(64, 64), difference_module="euclidean").backbone.vit.train()
    vit.position_grid.data.fill_(1)
    torch.nn.init.zeros_(vit.embed.weight)
    with torch.no_grad():
        tokens, _ = vit.tokens(torch.zeros(1000, 3, 64, 64))
    patches = tokens[:, vit.extra :]
    seen = patches.amax(dim=(1, 2))
    assert 0.07 < (seen == 0).float().mean() < 0.13
    torch.testing.assert_close(patches[seen > 0], torch.ones_like(patches[seen > 0]))


@pytest.mark.parametrize(("series", "extra", "summary"), [("v2", 8, 3), ("p1", 16, 3), ("p2", 16, 4), ("p3", 16, 3)])
def test_extra_tokens_of_radio(series: str, extra: int, summary: int) -> None:
    settings = next(each for name, each in RADIO_SETTINGS.items() if name.startswith(f"c_radio_{series}"))
    assert (settings.extra, settings.summary) == (extra, summary)


@pytest.mark.parametrize("backbone", ["tiny_radio", "tiny_dinov3"])
def test_summary_is_fused_where_it_is_asked_for(backbone: str, make_network: Make) -> None:
    fused = make_network(backbone=backbone, image_size=SIZE).backbone
    plain = make_network(backbone=backbone, image_size=SIZE, use_summary_token=False).backbone
    assert len(fused.fusions) == 4
    assert len(plain.fusions) == 0
    own = {name for name, _ in fused.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert all(name.startswith(("summary.", "fusions.")) for name in own)


def test_nvdinov2_always_fuses_its_class_token(make_network: Make) -> None:
    assert make_network(backbone="tiny_nvdinov2", image_size=SIZE, use_summary_token=False).backbone.summary is not None


@pytest.mark.parametrize("backbone", TINY)
def test_frozen_transformer_keeps_while_its_adapter_learns(
    backbone: str, make_network: Make, pictures: Pictures
) -> None:
    network = make_network(backbone=backbone, image_size=SIZE, learnable_difference_modules=3)
    network.freeze_backbone()
    network.train()
    learning = {name for name, each in network.backbone.named_parameters() if each.requires_grad}
    assert {name.split(".")[0] for name in learning} == {
        *("vit", "level_code", "prior", "interactions", "summary", "fusions", "norms")
    }
    assert all("token" in name for name in learning if name.startswith("vit."))
    assert not network.backbone.vit.training
    assert network.backbone.prior.stem[1].training
    before = {name: each.clone() for name, each in network.backbone.state_dict().items()}
    network(*pictures(batch=4, size=SIZE)).sum().backward()
    after = network.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("vit."))
    assert not torch.equal(before["prior.stem.1.running_mean"], after["prior.stem.1.running_mean"])
    assert all(each.grad is not None for each in network.backbone.parameters() if each.requires_grad)


def test_frozen_vector_encoder_is_still(make_network: Make, pictures: Pictures) -> None:
    network = make_network(backbone="tiny_radio", image_size=SIZE, difference_module="euclidean")
    network.freeze_backbone()
    network.train()
    assert not any(each.requires_grad for each in network.backbone.parameters())
    picture = pictures(size=SIZE)[0]
    with torch.no_grad():
        assert torch.equal(network.backbone(picture)[0], network.backbone(picture)[0])
