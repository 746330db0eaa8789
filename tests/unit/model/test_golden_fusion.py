"""Several goldens: the fusion against its definition, the seam, gradients, and the sizes that are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from changenet.errors import CheckpointError, SpecError
from changenet.model.golden_fusion import GoldenFusion
from changenet.model.network import ChangeNet
from changenet.model.tao_checkpoint import load_tao_state

TINY = "timm/test_efficientnet"
SIDE = 224
Make = Callable[..., ChangeNet]


@pytest.fixture(scope="module")
def make_network() -> Make:
    def make(**changes: Any) -> ChangeNet:
        torch.manual_seed(0)
        settings = {"backbone": TINY, "image_size": (SIDE, SIDE), "embed_dim": 8, "embed_dec": 6, "num_golden": 3}
        network = ChangeNet(**{**settings, **changes})
        for module in network.modules():
            if isinstance(module, GoldenFusion):
                nn.init.normal_(module.position)
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.momentum = 1.0
        height, width = network.image_size
        test, golden = torch.randn(6, 3, height, width), torch.randn(6, network.num_golden, 3, height, width)
        with torch.no_grad():  # real batch statistics: with fresh ones the signal fades
            network.train()(test, golden if network.num_golden > 1 else golden[:, 0])
        return network.eval()

    return make


def pictures(batch: int = 2, goldens: int = 3, side: int = SIDE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    test = torch.randn(batch, 3, side, side, generator=generator)
    return test, torch.randn(batch, goldens, 3, side, side, generator=generator)


def slowly(fusion: GoldenFusion, differences: torch.Tensor) -> torch.Tensor:
    """The definition, token by token: reference 4.7."""
    pairs, goldens, width, height, across = differences.shape
    rows, columns = height // 7, across // 7
    result = torch.empty(pairs, width, height, across)
    for pair in range(pairs):
        for down in range(7):
            for right in range(7):
                places = [(block * 7 + down, other * 7 + right) for block in range(rows) for other in range(columns)]
                tokens = torch.stack(
                    [
                        differences[pair, golden, :, row, column] + fusion.position[0, :, row % rows, column % columns]
                        for golden in range(goldens)
                        for row, column in places
                    ]
                )
                query, key, value = (part(tokens) for part in (fusion.query, fusion.key, fusion.value))
                weights = (query @ key.T * width**-0.5).softmax(dim=1)
                tokens = tokens + fusion.output(weights @ value)
                for number, (row, column) in enumerate(places):
                    result[pair, :, row, column] = tokens[number :: len(places)].max(dim=0).values
    return fusion.norm(result)


@pytest.mark.parametrize("size", [(7, 7), (14, 28), (21, 7)])
def test_fusion_is_its_definition(size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    fusion = GoldenFusion(width=6, size=size)
    nn.init.normal_(fusion.position)
    nn.init.normal_(fusion.norm.running_mean)
    differences = torch.randn(2, 3, 6, *size)
    with torch.no_grad():
        torch.testing.assert_close(fusion.eval()(differences), slowly(fusion, differences), rtol=1e-4, atol=1e-5)


def test_position_starts_at_zero_and_the_order_of_the_goldens_does_not_matter() -> None:
    fusion = GoldenFusion(width=4, size=(14, 14)).eval()
    assert not fusion.position.any()
    differences = torch.randn(2, 3, 4, 14, 14)
    with torch.no_grad():
        turned = fusion(differences[:, [2, 0, 1]])
        torch.testing.assert_close(turned, fusion(differences), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(fusion(differences[:, :1]), fusion(differences), atol=1e-3)


def test_parameter_count_is_that_of_the_reference() -> None:
    # Reference 4.8: four goldens add 1,076,480 to C-RADIO base, whose levels at 224 are those of any encoder here.
    counts = []
    for goldens in (1, 4):
        with torch.device("meta"):
            network = ChangeNet(
                backbone="fan_tiny_8_p4_hybrid", image_size=(224, 224), feat_downsample=True, num_golden=goldens
            )
        counts.append(sum(each.numel() for each in network.parameters()))
    assert counts[1] - counts[0] == 155_003_918 - 153_927_438


@pytest.mark.parametrize("changes", [{}, {"learnable_difference_modules": 2}, {"head": "flatten"}, {"num_golden": 2}])
def test_kept_goldens_serve_many_tests(changes: dict[str, Any], make_network: Make) -> None:
    network = make_network(**changes)
    test, golden = pictures(batch=3, goldens=network.num_golden)
    with torch.no_grad():
        each = [network.prepare_golden(network.encode(golden[:1, number])) for number in range(network.num_golden)]
        kept = tuple(torch.stack(level, dim=1) for level in zip(*each, strict=True))
        found = network.compare(network.encode(test), kept)
        whole = network(test, golden[:1].expand(3, -1, -1, -1, -1))
    assert found.shape == (3, 2)
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)


def test_every_golden_counts_and_pairs_do_not_see_each_other(make_network: Make) -> None:
    network = make_network()
    test, golden = pictures(batch=2)
    with torch.no_grad():
        whole = network(test, golden)
        alone = torch.cat([network(test[row : row + 1], golden[row : row + 1]) for row in range(2)])
        torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)
        for number in range(3):
            other = golden.clone()
            other[0, number] = other[0, number].flip(-1)
            changed = network(test, other)
            assert not torch.allclose(changed[0], whole[0], atol=1e-4)
            torch.testing.assert_close(changed[1], whole[1], rtol=1e-4, atol=1e-5)


def test_arguments_rebuild_the_network_and_older_ones_have_one_golden(make_network: Make) -> None:
    network = make_network(golden_gradients="all")
    arguments = json.loads(json.dumps(network.arguments))
    assert (arguments["num_golden"], arguments["golden_gradients"]) == (3, "all")
    twin = ChangeNet(**arguments).eval()
    twin.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(network(*pictures()), twin(*pictures()))
    del arguments["num_golden"], arguments["golden_gradients"]
    assert ChangeNet(**arguments).pyramid.golden_fusion is None


@pytest.mark.parametrize("gradients", ["first", "all"])
def test_the_encoder_learns_from_the_goldens_that_are_asked_for(gradients: Any, make_network: Make) -> None:
    network = make_network(golden_gradients=gradients).train()
    test, golden = pictures(batch=4)
    golden.requires_grad_()
    output = network(test, golden)
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    seen = [bool(golden.grad[:, number].abs().sum() > 0) for number in range(3)]
    assert seen == ([True, False, False] if gradients == "first" else [True] * 3)
    idle = [name for name, each in network.named_parameters() if each.requires_grad and each.grad is None]
    assert not idle


def test_both_ways_of_learning_compare_with_all_goldens(make_network: Make) -> None:
    first, everything = make_network(), make_network(golden_gradients="all")
    everything.load_state_dict(first.state_dict())
    for network in (first, everything):
        network.train()
        for module in network.modules():  # batch statistics would differ: two encoder calls against one
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
            if type(module).__name__ == "DropPath":
                module.drop_prob = 0.0
    torch.testing.assert_close(first(*pictures()), everything(*pictures()), rtol=1e-4, atol=1e-5)


def test_projections_learn_from_all_goldens_even_when_the_encoder_does_not(make_network: Make) -> None:
    network = make_network().train()
    test, golden = pictures(batch=4)
    network.freeze_backbone()
    with torch.no_grad():
        golden[:, 0] = 0
    network(test, golden).square().sum().backward()
    assert all(each.grad is not None for each in network.pyramid.project.parameters())
    assert all(each.grad is None for each in network.backbone.parameters())


def test_levels_that_do_not_take_part_are_not_trained(make_network: Make) -> None:
    network = make_network(learnable_difference_modules=2)
    trained = [any(each.requires_grad for each in fusion.parameters()) for fusion in network.pyramid.golden_fusion]
    assert trained == [True, True, False, False]


@pytest.mark.parametrize(
    ("backbone", "side", "sides"),
    [("fan_tiny_8_p4_hybrid", 128, 112), (TINY, 128, 224), ("timm/test_vit", 128, 224)],
)
def test_sides_that_cannot_be_cut_are_refused_with_those_that_can(backbone: str, side: int, sides: int) -> None:
    with pytest.raises(SpecError, match=f"multiples of {sides}"):
        ChangeNet(backbone=backbone, image_size=(side, side), embed_dim=8, num_golden=2)


def test_fan_compares_with_several_goldens_at_112() -> None:
    network = ChangeNet(
        backbone="fan_tiny_8_p4_hybrid", image_size=(112, 224), embed_dim=8, embed_dec=6, num_golden=2
    ).eval()
    test, golden = torch.randn(1, 3, 112, 224), torch.randn(1, 2, 3, 112, 224)
    with torch.no_grad():
        output = network(test, golden)
    assert output.shape == (1, 2)
    assert torch.isfinite(output).all()


def test_the_euclidean_comparison_takes_one_golden() -> None:
    with pytest.raises(SpecError, match="euclidean comparison takes one"):
        ChangeNet(backbone=TINY, image_size=(SIDE, SIDE), difference_module="euclidean", num_golden=2)
    with pytest.raises(SpecError) as caught:
        ChangeNet(image_size=(112, 112), num_golden=0, golden_gradients="some")  # type: ignore[arg-type]
    assert len(caught.value.problems) == 2


def test_other_sizes_and_halves_of_one_golden_are_refused(make_network: Make) -> None:
    network = make_network()
    test, golden = pictures()
    with pytest.raises(ValueError, match=r"\(224, 224\)"):
        network.encode(torch.randn(1, 3, 112, 112))
    with torch.no_grad(), pytest.raises(ValueError, match=r"\(B, N, E, H, W\)"):
        network(test, golden[:, 0])


def tao_names(network: ChangeNet) -> dict[str, torch.Tensor]:
    """The comparison's tensors as TAO calls them, written out by hand from the reference's list of names."""
    state, named = network.state_dict(), {}
    for tao in range(1, 5):
        ours = 4 - tao
        fusion = f"pyramid.golden_fusion.{ours}"
        named[f"decoder.position_embedding_c{tao}"] = state[f"{fusion}.position"]
        named[f"decoder.attn_c{tao}.scaling"] = torch.tensor(1 / math.sqrt(state[f"{fusion}.position"].shape[1]))
        for letter, part in zip("qkvo", ("query", "key", "value", "output"), strict=True):
            for kind in ("weight", "bias"):
                named[f"decoder.attn_c{tao}.W_{letter}.{kind}"] = state[f"{fusion}.{part}.{kind}"]
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            named[f"decoder.bn{tao}.{kind}"] = state[f"{fusion}.norm.{kind}"]
            named[f"decoder.diff_c{tao}.2.{kind}"] = state[f"pyramid.difference.{ours}.norm.{kind}"]
        halves = [state[f"pyramid.difference.{ours}.{half}_half.weight"] for half in ("test", "golden")]
        named[f"decoder.diff_c{tao}.0.weight"] = torch.cat(halves, dim=1)
        named[f"decoder.diff_c{tao}.0.bias"] = state[f"pyramid.difference.{ours}.test_half.bias"]
        for kind in ("weight", "bias"):
            named[f"decoder.diff_c{tao}.3.{kind}"] = state[f"pyramid.difference.{ours}.mix.{kind}"]
            named[f"decoder.linear_c{tao}.proj.{kind}"] = state[f"pyramid.project.{ours}.{kind}"].flatten(
                1 if kind == "weight" else 0
            )
    named["decoder.linear_fuse.0.weight"] = torch.cat(
        [state[f"pyramid.fuse.{level}.weight"] for level in range(4)], dim=1
    )
    named["decoder.linear_fuse.0.bias"] = state["pyramid.fuse.0.bias"]
    for name, tensor in state.items():
        if name.startswith("pyramid.fuse_norm."):
            named[name.replace("pyramid.fuse_norm", "decoder.linear_fuse.1")] = tensor
        if name.startswith("head.layers."):
            named[name.replace("head.layers", "decoder.classifier")] = tensor
        if name.startswith("backbone."):
            named[name] = tensor
    return named


def test_taos_names_find_their_places_and_another_scaling_is_refused(make_network: Make) -> None:
    network = make_network(head="flatten")
    state = tao_names(network)
    twin = ChangeNet(**network.arguments).eval()
    load_tao_state(twin, state)
    with torch.no_grad():
        assert torch.equal(network(*pictures()), twin(*pictures()))
    state["decoder.attn_c2.scaling"] = torch.tensor(1.0)
    with pytest.raises(CheckpointError, match=r"attn_c2\.scaling"):
        load_tao_state(twin, state)
