from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from changenet.errors import SpecError
from changenet.model.network import ChangeNet, Normalise, distance

Pictures = Callable[..., tuple[torch.Tensor, torch.Tensor]]
Make = Callable[..., ChangeNet]

LITE = "timm/tf_efficientnet_lite0"
KINDS: list[dict[str, Any]] = [
    {},
    {"difference_module": "euclidean"},
    {"head": "pool", "learnable_difference_modules": 2},
    {"backbone": LITE},
    {"backbone": LITE, "head": "flatten", "learnable_difference_modules": 1},
    {"backbone": LITE, "difference_module": "euclidean"},
]

# Reference, section 4.8: pictures of 512 x 128 (four lights), embed_dec 30, embedding 5.
COUNTS = [
    ("fan_tiny_8_p4_hybrid", {}, 46_274_806, 7_273_856),
    ("fan_tiny_8_p4_hybrid", {"difference_module": "euclidean"}, 32_707_461, 7_273_856),
    ("fan_small_12_p4_hybrid", {}, 64_831_430, 25_732_176),
    ("fan_small_12_p4_hybrid", {"learnable_difference_modules": 1}, 64_634_822, 25_732_176),
    ("fan_small_12_p4_hybrid", {"num_classes": 5}, 64_831_523, 25_732_176),
    ("fan_small_12_p4_hybrid", {"image_size": (256, 256)}, 64_831_430, 25_732_176),
    ("fan_small_12_p4_hybrid", {"difference_module": "euclidean"}, 76_331_605, 25_732_176),
    ("fan_base_16_p4_hybrid", {}, 89_157_174, 50_025_152),
    ("fan_base_16_p4_hybrid", {"difference_module": "euclidean"}, 109_013_189, 50_025_152),
    ("fan_large_16_p4_hybrid", {}, 115_521_586, 76_373_180),
    ("fan_large_16_p4_hybrid", {"difference_module": "euclidean"}, 139_555_521, 76_373_180),
]


@pytest.mark.parametrize(("backbone", "changes", "total", "encoder"), COUNTS)
def test_parameter_counts_are_those_of_the_reference(
    backbone: str, changes: dict[str, Any], total: int, encoder: int
) -> None:
    with torch.device("meta"):
        network = ChangeNet(**{"backbone": backbone, "image_size": (512, 128), **changes})
    assert sum(each.numel() for each in network.backbone.parameters()) == encoder
    assert sum(each.numel() for each in network.parameters()) == total


@pytest.mark.parametrize("changes", KINDS)
def test_network_equals_its_parts(changes: dict[str, Any], make_network: Make, pictures: Pictures) -> None:
    network = make_network(**changes)
    test, golden = pictures()
    with torch.no_grad():
        whole = network(test, golden)
        parts = network.compare(network.encode(test), network.prepare_golden(network.encode(golden)))
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", KINDS)
def test_one_kept_golden_serves_many_tests(changes: dict[str, Any], make_network: Make, pictures: Pictures) -> None:
    network = make_network(**changes)
    test, golden = pictures(batch=3)
    with torch.no_grad():
        halves = network.prepare_golden(network.encode(golden[:1]))
        together = network.compare(network.encode(test), halves)
        repeated = network(test, golden[:1].expand(3, -1, -1, -1))
    torch.testing.assert_close(together, repeated, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", KINDS)
def test_arguments_rebuild_the_network(changes: dict[str, Any], make_network: Make, pictures: Pictures) -> None:
    network = make_network(**changes)
    twin = ChangeNet(**json.loads(json.dumps(network.arguments))).eval()
    twin.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(network(*pictures()), twin(*pictures()))


def test_learned_difference_depends_on_the_order_of_the_pictures_and_the_distance_does_not(
    make_network: Make, pictures: Pictures
) -> None:
    test, golden = pictures()
    learned, measured = make_network(), make_network(difference_module="euclidean")
    with torch.no_grad():
        assert not torch.allclose(learned(test, golden), learned(golden, test), atol=1e-6)
        torch.testing.assert_close(measured(test, golden), measured(golden, test), rtol=1e-3, atol=1e-5)


def test_distance_of_equal_pictures_is_almost_zero(make_network: Make, pictures: Pictures) -> None:
    test, _ = pictures()
    with torch.no_grad():
        assert make_network(difference_module="euclidean")(test, test).max() < 1e-4


def test_difference_halves_are_one_convolution_of_both(make_network: Make) -> None:
    module = make_network().pyramid.difference[0]
    joint = nn.Conv2d(16, 8, kernel_size=3, padding=1)
    joint.weight.data = torch.cat([module.test_half.weight, module.golden_half.weight], dim=1).data
    joint.bias.data = module.test_half.bias.data
    test, golden = torch.randn(2, 1, 8, 5, 4)
    torch.testing.assert_close(
        joint(torch.cat([test, golden], dim=1)), module.test_half(test) + module.golden_half(golden)
    )


def test_halves_are_initialised_like_one_convolution() -> None:
    torch.manual_seed(0)
    module = ChangeNet(image_size=(16, 16), embed_dim=64).pyramid.difference[0]
    expected = nn.Conv2d(128, 64, kernel_size=3).weight.std()
    for half in (module.test_half, module.golden_half):
        torch.testing.assert_close(half.weight.std(), expected, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("backbone", ["fan_tiny_8_p4_hybrid", LITE])
def test_only_levels_that_take_part_are_computed_and_trained(
    levels: int, backbone: str, make_network: Make, pictures: Pictures
) -> None:
    network = make_network(backbone=backbone, head="flatten", learnable_difference_modules=levels).train()
    test, golden = pictures(batch=4)
    features = network.encode(test)
    assert len(features) == levels
    strides = list(reversed(network.backbone.strides))[:levels]
    assert [each.shape[2] for each in features] == [max(32 // stride, 1) for stride in strides]
    network(test, golden).sum().backward()
    for number, module in enumerate(network.pyramid.difference):
        got = [each.grad is not None for each in module.parameters()]
        assert all(got) if number < levels else not any(got)


@pytest.mark.parametrize("changes", KINDS)
def test_every_trainable_weight_gets_a_gradient(
    changes: dict[str, Any], make_network: Make, pictures: Pictures
) -> None:
    network = make_network(**changes).train()
    for each in network.backbone.modules():  # a residual that is dropped for every sample would hide its weights
        if type(each).__name__ == "DropPath":
            each.drop_prob = 0.0
    output = network(*pictures(batch=6))
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    idle = [name for name, each in network.named_parameters() if each.requires_grad and each.grad is None]
    assert not idle
    assert all(torch.isfinite(each.grad).all() for each in network.parameters() if each.grad is not None)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), kind=st.sampled_from(["learnable", "euclidean"]))
def test_fan_takes_any_multiple_of_sixteen(rows: int, columns: int, kind: str, make_network: Make) -> None:
    network = make_network(difference_module=kind, image_size=(16 * rows, 16 * columns))
    test, golden = torch.randn(2, 1, 3, 16 * rows, 16 * columns)
    with torch.no_grad():
        assert network(test, golden).shape == ((1, 2) if kind == "learnable" else (1,))


def test_fan_refuses_other_sizes() -> None:
    with pytest.raises(SpecError, match="multiples of 16"):
        ChangeNet(image_size=(128, 100))


@pytest.mark.parametrize("kind", ["learnable", "euclidean"])
@pytest.mark.parametrize("backbone", ["fan_tiny_8_p4_hybrid", "fan_small_12_p4_hybrid"])
def test_downsampled_fan_has_a_head_that_fits(kind: str, backbone: str, make_network: Make, pictures: Pictures) -> None:
    network = make_network(backbone=backbone, difference_module=kind, image_size=(32, 64), feat_downsample=True)
    assert network.backbone.widths[-1] == 768
    with torch.no_grad():
        assert network(*pictures(size=(32, 64))).shape[0] == 2
    with pytest.raises(SpecError, match="multiples of 32"):
        ChangeNet(image_size=(48, 64), feat_downsample=True)


@pytest.mark.parametrize("kind", ["learnable", "euclidean"])
def test_pooled_head_takes_any_size(kind: str, make_network: Make) -> None:
    network = make_network(backbone=LITE, difference_module=kind)
    with torch.no_grad():
        for size in [(32, 48), (50, 37), (96, 33)]:
            test, golden = torch.randn(2, 2, 3, *size)
            assert torch.isfinite(network(test, golden)).all()


def test_flattened_head_names_the_size_it_was_made_for(make_network: Make) -> None:
    with pytest.raises(ValueError, match=r"\(32, 48\)"):
        make_network().encode(torch.randn(1, 3, 48, 32))


def test_flattened_head_fits_sides_that_strides_do_not_divide(make_network: Make) -> None:
    network = make_network(backbone=LITE, head="flatten", image_size=(50, 37), learnable_difference_modules=2)
    with torch.no_grad():
        assert network(*torch.randn(2, 2, 3, 50, 37)).shape == (2, 2)


def test_align_corners_changes_the_resizing_and_nothing_else(make_network: Make, pictures: Pictures) -> None:
    plain, aligned = make_network(), make_network(align_corners=True)
    aligned.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert not torch.allclose(plain(*pictures()), aligned(*pictures()), atol=1e-7)
        assert aligned.force_align_corners_off()
        assert torch.equal(plain(*pictures()), aligned(*pictures()))
    assert aligned.arguments["align_corners"] is False


def test_contradictions_are_reported_together() -> None:
    with pytest.raises(SpecError) as caught:
        ChangeNet(image_size=(128, 100), learnable_difference_modules=5, num_classes=1, head="mean")  # type: ignore[arg-type]
    assert len(caught.value.problems) == 4
    with pytest.raises(SpecError, match=r"\[4, 8, 16, 16\]"):
        ChangeNet(feature_strides=[4, 8, 16, 32])
    ChangeNet(feature_strides=[4, 8, 16, 32], difference_module="euclidean", image_size=(16, 16))


@pytest.mark.parametrize("changes", [{}, {"difference_module": "euclidean"}])
def test_half_precision_stays_close(changes: dict[str, Any], make_network: Make, pictures: Pictures) -> None:
    network = make_network(**changes)
    with torch.no_grad():
        exact = network(*pictures(batch=4))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = network(*pictures(batch=4))
    assert network.score(rough).dtype == torch.float32
    assert (rough.float() - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("changes", [{}, {"difference_module": "euclidean"}, {"backbone": LITE}])
def test_half_precision_trains(changes: dict[str, Any], make_network: Make, pictures: Pictures) -> None:
    network = make_network(**changes).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(*pictures(batch=4))
    output.float().square().sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in network.parameters() if each.grad is not None)


@pytest.mark.parametrize("backbone", ["fan_tiny_8_p4_hybrid", LITE])
def test_frozen_encoder_neither_learns_nor_drifts(backbone: str, make_network: Make, pictures: Pictures) -> None:
    network = make_network(backbone=backbone)
    network.freeze_backbone()
    before = {name: each.clone() for name, each in network.backbone.state_dict().items()}
    network.train()
    assert network.training
    assert not any(module.training for module in network.backbone.modules())
    assert all(module.training for module in network.head.modules())
    network(*pictures(batch=4)).sum().backward()
    assert all(each.grad is None for each in network.backbone.parameters())
    assert all(torch.equal(before[name], each) for name, each in network.backbone.state_dict().items())
    assert network.head.layers[0].weight.grad is not None


def test_frozen_fan_still_learns_to_downsample(make_network: Make) -> None:
    network = make_network(feat_downsample=True, image_size=(32, 32))
    network.freeze_backbone()
    learning = [name for name, each in network.backbone.named_parameters() if each.requires_grad]
    assert learning == ["downsample.weight", "downsample.bias"]


def test_scores_are_the_chance_of_a_defect() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5], [3.0, -1.0, 0.0]])
    with torch.device("meta"):
        binary = ChangeNet(image_size=(16, 16), num_classes=3)
        classes = ChangeNet(image_size=(16, 16), num_classes=3, multiclass=True)
        measured = ChangeNet(image_size=(16, 16), difference_module="euclidean")
    torch.testing.assert_close(binary.score(logits), logits.softmax(1)[:, 1])
    torch.testing.assert_close(classes.score(logits), 1 - logits.softmax(1)[:, 0])
    assert torch.equal(measured.score(torch.tensor([0.3])), torch.tensor([0.3]))


def test_distance_adds_the_epsilon_of_tao() -> None:
    test, golden = torch.randn(2, 3, 5)
    torch.testing.assert_close(distance(test, golden), nn.functional.pairwise_distance(test, golden))


def test_normalise_is_bytes_to_standard_scores() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    picture = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    expected = (picture / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(Normalise(mean=mean, std=std)(picture), expected, rtol=1e-5, atol=1e-6)
    assert not Normalise(mean=mean, std=std).state_dict()


def test_normalisation_comes_from_the_encoder_unless_it_is_given() -> None:
    assert ChangeNet(backbone=LITE, embed_dim=8).arguments["mean"] == [0.5, 0.5, 0.5]
    assert ChangeNet(image_size=(16, 16), embed_dim=8).arguments["std"] == [0.229, 0.224, 0.225]
    assert ChangeNet(image_size=(16, 16), embed_dim=8, mean=(0.1, 0.2, 0.3)).arguments["mean"] == [0.1, 0.2, 0.3]
