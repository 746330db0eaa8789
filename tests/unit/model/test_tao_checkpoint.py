from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from changenet.errors import CheckpointError
from changenet.model.network import ChangeNet
from changenet.model.tao_checkpoint import is_tao_state, load_tao_state, read_tao_state

CASE = "fan_tiny_learnable_modules2"
Make = Callable[..., ChangeNet]


@pytest.fixture(scope="module")
def tao_state() -> dict[str, torch.Tensor]:
    """The tensors of a TAO checkpoint of `fan_tiny`, learnable, two levels, one 64 x 64 light."""
    folder = Path(__file__).parents[2] / "parity"
    spec = importlib.util.spec_from_file_location("changenet_parity_cases", folder / "parity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state: dict[str, torch.Tensor] = module.weights(json.loads((folder / "cases.json").read_text())[CASE], "model.")
    return state


def fitting(**changes: Any) -> ChangeNet:
    return ChangeNet(**{"image_size": (64, 64), "learnable_difference_modules": 2, **changes}).eval()


def test_checkpoint_of_the_training_module_loads_from_its_file(
    tao_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = str(tmp_path / "model_epoch_009_step_00100.pth")
    torch.save(
        {"state_dict": {**tao_state, "criterion.weight": torch.ones(2)}, "tao_model": "visual_changenet_classify"}, path
    )
    network = fitting()
    load_tao_state(network, read_tao_state(path), where=path)
    joint = tao_state["model.decoder.diff_c4.0.weight"].float()
    assert torch.equal(network.pyramid.difference[0].test_half.weight, joint[:, :256])
    assert torch.equal(network.pyramid.difference[0].golden_half.weight, joint[:, 256:])
    assert torch.equal(network.backbone.class_token, tao_state["model.backbone.cls_token"].float())


def test_missing_and_left_over_tensors_are_named(tao_state: dict[str, torch.Tensor]) -> None:
    state = {**tao_state, "model.decoder.surprise": torch.zeros(1)}
    del state["model.backbone.blocks.3.attn.kv.weight"]
    with pytest.raises(CheckpointError) as caught:
        load_tao_state(fitting(), state, where="x.pth")
    text = str(caught.value)
    assert "backbone.blocks.3.token_mix.key_value.weight" in text
    assert "decoder.surprise" in text


@pytest.mark.parametrize("changes", [{"image_size": (64, 32)}, {"num_classes": 3}, {"learnable_difference_modules": 4}])
def test_settings_that_differ_from_the_training_are_refused(
    changes: dict[str, Any], tao_state: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(CheckpointError, match="must be those of the training"):
        load_tao_state(fitting(**changes), tao_state)


def test_align_corners_is_switched_off_with_a_warning(
    tao_state: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    network = fitting(align_corners=True)
    with caplog.at_level(logging.WARNING):
        load_tao_state(network, tao_state)
    assert "align_corners" in caplog.text
    assert network.arguments["align_corners"] is False


def test_other_checkpoints_are_told_apart(make_network: Make, tmp_path: Path) -> None:
    ours = make_network().state_dict()
    assert not is_tao_state(ours)
    torch.save({"state_dict": ours}, tmp_path / "ours.pth")
    torch.save({"state_dict": ours, "tao_model": "visual_changenet_segment"}, tmp_path / "segment.pth")
    with pytest.raises(CheckpointError, match="no checkpoint of TAO"):
        read_tao_state(str(tmp_path / "ours.pth"))
    with pytest.raises(CheckpointError, match="visual_changenet_segment"):
        read_tao_state(str(tmp_path / "segment.pth"))
