"""Weights that others made for vision transformers, under the names that they give them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from changenet.errors import CheckpointError
from changenet.model.backbones.dino_names import timm_names
from changenet.model.backbones.resampling import resample_grid, resample_kernel
from changenet.model.backbones.timm_vit import TimmVit
from changenet.model.network import ChangeNet
from changenet.model.pretrained import load_backbone
from changenet.torchvision_compat import timm

Make = Callable[..., ChangeNet]
pytestmark = pytest.mark.usefixtures("tiny_vits")
SIZE = (64, 64)
DINO = {"embed_dim": 32, "depth": 4, "num_heads": 2}


def renamed(tensors: dict[str, Tensor], *rules: tuple[str, str]) -> dict[str, Tensor]:
    """Return tensors with every rule applied to their names, from the top down."""
    named = {}
    for old, tensor in tensors.items():
        name = old
        for pattern, other in rules:
            name = re.sub(pattern, other, name)
        named[name] = tensor
    return named


def split_attention(tensors: dict[str, Tensor], *parts: str, leave_out: str = "") -> dict[str, Tensor]:
    """Return tensors with `attn.qkv` as three layers, called `parts`."""
    named = {}
    for name, tensor in tensors.items():
        if ".attn.qkv." not in name:
            named[name] = tensor
            continue
        for part, third in zip(parts, tensor.chunk(3), strict=True):
            split = name.replace(".attn.qkv.", f".{part}.")
            if split.split(".", 2)[2] != leave_out:
                named[split] = third.clone()
    return named


def lively(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(3)
    for each in model.parameters():
        torch.nn.init.normal_(each, std=0.1)
    return model.eval()


def dinov2(**changes: object) -> torch.nn.Module:
    """A small DINOv2 as timm has it: patches of 14 pixels, 5 x 5 positions, packed SwiGLU."""
    settings = {"img_size": 70, "patch_size": 14, "num_classes": 0, "init_values": 1e-5, **DINO, "mlp_ratio": 4}
    layers = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    return lively(timm.models.vision_transformer.VisionTransformer(**{**settings, **layers, **changes}))


TO_HUGGING_FACE_DINOV2 = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"attn\.proj", "attention.output.dense"),
    (r"ls([12])\.gamma", r"layer_scale\1.lambda1"),
    (r"mlp\.fc1", "mlp.weights_in"),
    (r"mlp\.fc2", "mlp.weights_out"),
)


def test_dinov2_of_hugging_face_fills_the_transformer(make_network: Make, tmp_path: Path) -> None:
    theirs = dinov2().state_dict()
    parts = [f"attention.attention.{part}" for part in ("query", "key", "value")]
    file = renamed(split_attention(theirs, *parts), *TO_HUGGING_FACE_DINOV2)
    save_file({**file, "embeddings.mask_token": torch.zeros(1, 32)}, tmp_path / "w.safetensors")
    network = make_network(backbone="tiny_nvdinov2", image_size=SIZE)
    report = load_backbone(network, str(tmp_path / "w.safetensors"))
    assert report.missing == report.mismatched == ()
    assert report.unused == ("vit.model.embeddings.mask_token",)
    assert all(
        name.startswith(("level_code", "prior", "interactions", "up", "summary", "fus", "norms"))
        for name in report.fresh
    )
    assert set(report.interpolated) == {
        "vit.model.pos_embed (1, 26, 32) to (1, 17, 32)",
        "vit.model.patch_embed.proj.weight (32, 3, 14, 14) to (32, 3, 16, 16)",
    }
    assert "2 interpolated" in str(report)
    ours = network.backbone.vit.model.state_dict()
    changed = {"pos_embed", "patch_embed.proj.weight"}
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name not in changed)
    torch.testing.assert_close(ours["patch_embed.proj.weight"], resample_kernel(theirs["patch_embed.proj.weight"], 16))
    assert torch.equal(ours["pos_embed"][:, :1], theirs["pos_embed"][:, :1])


def test_interpolation_keeps_what_does_not_change() -> None:
    assert torch.allclose(resample_kernel(torch.ones(2, 3, 14, 14), 16), torch.ones(2, 3, 16, 16))
    ramp = torch.linspace(0, 1, 8).expand(1, 8, 8)[..., None]
    torch.testing.assert_close(resample_grid(ramp, (8, 8)), ramp)
    half = resample_grid(ramp, (4, 4))[0, :, :, 0]
    torch.testing.assert_close(half[:, 1:].diff(dim=1), torch.full((4, 2), 2 / 7), rtol=0.05, atol=0.0)
    torch.testing.assert_close(half.mean(), ramp.mean())


def test_vector_of_the_loaded_encoder_is_that_of_the_file(make_network: Make, tmp_path: Path) -> None:
    source = dinov2()
    torch.save({"model": {f"module.{name}": each for name, each in source.state_dict().items()}}, tmp_path / "w.pth")
    network = make_network(backbone="tiny_nvdinov2", image_size=(70, 70), difference_module="euclidean")
    report = load_backbone(network, str(tmp_path / "w.pth"))
    assert len(report.interpolated) == 1  # positions for 518 pixels
    vit = TimmVit(source)
    picture = torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        tokens, _ = vit.tokens(picture)
        torch.testing.assert_close(vit.vector(vit.run(tokens, range(4), None)), source(picture), rtol=1e-4, atol=1e-5)
        got, want = network.backbone(picture)[0], source(picture)
    assert torch.nn.functional.cosine_similarity(got, want).min() > 0.9


def test_dinov2_with_registers_of_meta_means_the_same(tmp_path: Path) -> None:
    """Its class token has a position code of its own; timm's has it inside."""
    vit = TimmVit(dinov2(reg_tokens=2, no_embed_class=True))
    ours = vit.state_dict()
    theirs = renamed(
        {name.removeprefix("model."): each for name, each in ours.items()},
        (r"^reg_token$", "register_tokens"),
        (r"mlp\.fc1", "mlp.w12"),
        (r"mlp\.fc2", "mlp.w3"),
    )
    code = torch.randn(1, 1, 32)
    theirs["cls_token"] = theirs["cls_token"] - code
    theirs["pos_embed"] = torch.cat([code, theirs["pos_embed"]], dim=1)
    named = vit.weight_names(theirs)
    assert set(named) == set(ours)
    for name, tensor in named.items():
        torch.testing.assert_close(tensor, ours[name])


TO_HUGGING_FACE_DINOV3 = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"^blocks\.", "layer."),
    (r"attn\.proj", "attention.o_proj"),
    (r"gamma_([12])$", r"layer_scale\1.lambda1"),
    (r"mlp\.fc1\.", "mlp.up_proj."),
    (r"mlp\.fc2\.", "mlp.down_proj."),
)
TO_META_DINOV3 = ((r"^reg_token$", "storage_tokens"), (r"gamma_([12])$", r"ls\1.gamma"))


@pytest.mark.parametrize("kind", ["learnable", "euclidean"])
@pytest.mark.parametrize("source", ["huggingface", "meta", "timm"])
def test_dinov3_fills_the_transformer(source: str, kind: str, make_network: Make, tmp_path: Path) -> None:
    model = timm.create_model("vit_small_patch16_dinov3", pretrained=False, num_classes=0, **DINO)
    theirs = lively(model).state_dict()
    if source == "huggingface":
        parts = [f"attention.{part}_proj" for part in "qkv"]
        file = renamed(split_attention(theirs, *parts), *TO_HUGGING_FACE_DINOV3)
        file |= {f"layer.0.attention.{part}_proj.bias": torch.zeros(32) for part in "qv"}
    else:
        file = renamed(theirs, *(TO_META_DINOV3 if source == "meta" else ()))
    save_file(file, tmp_path / "w.safetensors")
    network = make_network(backbone="tiny_dinov3", image_size=SIZE, difference_module=kind)
    report = load_backbone(network, str(tmp_path / "w.safetensors"))
    assert report.missing == report.mismatched == report.interpolated == ()
    ours = network.backbone.vit.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("theirs", "timms"),
    [
        (("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"), ("mlp.fc1_g", "mlp.fc1_x", "mlp.fc2")),
        (("mlp.w1", "mlp.w2", "mlp.w3"), ("mlp.fc1_g", "mlp.fc1_x", "mlp.fc2")),
        (("mlp.w12", "mlp.w3"), ("mlp.fc1", "mlp.fc2")),
        (("mlp.up_proj", "mlp.down_proj"), ("mlp.fc1", "mlp.fc2")),
    ],
)
def test_gated_layers_find_their_place(theirs: tuple[str, ...], timms: tuple[str, ...]) -> None:
    named = timm_names({f"layer.7.{name}.weight": torch.full((1,), float(i)) for i, name in enumerate(theirs)})
    assert {name: int(each) for name, each in named.items()} == {
        f"blocks.7.{name}.weight": number for number, name in enumerate(timms)
    }


def radio_file(prefix: str, *, side: int = 128) -> dict[str, Tensor]:
    torch.manual_seed(1)
    network = ChangeNet(backbone="tiny_radio", image_size=SIZE, difference_module="euclidean")
    tensors = {name.removeprefix("vit."): each for name, each in lively(network.backbone).state_dict().items()}
    named = renamed(
        tensors,
        (r"^position_grid$", "patch_generator.pos_embed"),
        (r"^embed\.weight$", "patch_generator.embedder.weight"),
        (r"^class_tokens$", "patch_generator.cls_token.token"),
    )
    named["patch_generator.embedder.weight"] = named["patch_generator.embedder.weight"].flatten(1)
    grid = named["patch_generator.pos_embed"].unflatten(1, (128, 128))
    named["patch_generator.pos_embed"] = resample_grid(grid, (side, side)).flatten(1, 2)
    return {f"{prefix}{name}": each.contiguous() for name, each in named.items()}


@pytest.mark.parametrize("kind", ["learnable", "euclidean"])
@pytest.mark.parametrize(
    "prefix", ["radio_model.model.", "base_model.", "radio.radio.model.", "backbone.radio.radio.radio.model.", "model."]
)
def test_radio_fills_the_transformer_whatever_it_is_wrapped_in(
    prefix: str, kind: str, make_network: Make, tmp_path: Path
) -> None:
    file = radio_file(prefix)
    save_file({**file, "radio_model.summary_idxs": torch.arange(3)}, tmp_path / "w.safetensors")
    network = make_network(backbone="tiny_radio", image_size=SIZE, difference_module=kind)
    report = load_backbone(network, str(tmp_path / "w.safetensors"))
    assert report.missing == report.mismatched == report.interpolated == ()
    assert report.unused == ("vit.summary_idxs",)
    assert len(report.loaded) == len(file)
    assert torch.equal(network.backbone.vit.class_tokens, file[f"{prefix}patch_generator.cls_token.token"])
    kernel = file[f"{prefix}patch_generator.embedder.weight"]
    picture = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        ours = network.backbone.vit.embed(picture).flatten()
    torch.testing.assert_close(ours, kernel @ picture.flatten(), rtol=1e-4, atol=1e-5)


def test_position_grid_of_radio_may_be_of_another_size(make_network: Make, tmp_path: Path) -> None:
    save_file(radio_file("radio_model.model.", side=64), tmp_path / "w.safetensors")
    network = make_network(backbone="tiny_radio", image_size=SIZE)
    report = load_backbone(network, str(tmp_path / "w.safetensors"))
    assert report.interpolated == ("vit.position_grid (1, 4096, 32) to (1, 16384, 32)",)


def test_positions_that_form_no_square_are_left_alone(make_network: Make, tmp_path: Path) -> None:
    file = radio_file("base_model.")
    file["base_model.patch_generator.pos_embed"] = torch.zeros(1, 15, 32)
    save_file(file, tmp_path / "w.safetensors")
    report = load_backbone(make_network(backbone="tiny_radio", image_size=SIZE), str(tmp_path / "w.safetensors"))
    assert report.mismatched == ("vit.position_grid",)


@pytest.mark.parametrize("kind", ["learnable", "euclidean"])
def test_whole_network_of_tao_gives_its_encoder(kind: str, make_network: Make, tmp_path: Path) -> None:
    file = radio_file("model.backbone.radio.radio.model.")
    beside = {"model.fc1.0.weight": torch.ones(512, 96), "criterion.weight": torch.ones(2)}
    torch.save({"state_dict": {**file, **beside}, "tao_model": "visual_changenet_classify"}, tmp_path / "vcn.pth")
    network = make_network(backbone="tiny_radio", image_size=SIZE, difference_module=kind)
    report = load_backbone(network, str(tmp_path / "vcn.pth"))
    assert "the encoder of a Visual ChangeNet" in str(report)
    assert report.unused == report.missing == ()
    assert len(report.loaded) == len(file)


def test_classifier_of_tao_gives_its_encoder(make_network: Make, tmp_path: Path) -> None:
    file = {f"model.{name}": each for name, each in dinov2(img_size=518).state_dict().items()}
    torch.save({"state_dict": file, "tao_model": "classification"}, tmp_path / "c.pth")
    network = make_network(backbone="tiny_nvdinov2", image_size=(70, 70), difference_module="euclidean")
    report = load_backbone(network, str(tmp_path / "c.pth"))
    assert report.missing == report.unused == report.interpolated == ()


def test_own_network_gives_its_adapter_too(make_network: Make, tmp_path: Path) -> None:
    source = make_network(backbone="tiny_dinov3", image_size=SIZE)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "own.pth")
    network = make_network(backbone="tiny_dinov3", image_size=(96, 96))
    report = load_backbone(network, str(tmp_path / "own.pth"))
    assert report.missing == report.fresh == report.mismatched == ()
    assert torch.equal(network.backbone.level_code, source.backbone.level_code)


def test_file_of_another_family_is_an_error(make_network: Make, tmp_path: Path) -> None:
    save_file({"stem.0.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="no tensor fits the encoder tiny_radio"):
        load_backbone(make_network(backbone="tiny_radio", image_size=SIZE), str(tmp_path / "w.safetensors"))
