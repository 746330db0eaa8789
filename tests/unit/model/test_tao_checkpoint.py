from __future__ import annotations

import argparse
import importlib.util
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from changenet.errors import CheckpointError
from changenet.model.network import ChangeNet
from changenet.model.tao_checkpoint import is_tao_state, load_tao_state, strip_training_module
from changenet.model.tao_file import TaoCheckpoint, recognise
from changenet.model.weight_files import read_pickled

ONES = torch.ones(2)
CASE = "fan_tiny_learnable_modules2"
Make = Callable[..., ChangeNet]
State = dict[str, torch.Tensor]


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


def recognised(content: object) -> TaoCheckpoint | None:
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return recognise(read_pickled(file, where="x.tlt"), where="x.tlt")


@pytest.mark.parametrize("tag", [{"tao_model": "visual_changenet_classify"}, {}])
def test_checkpoint_of_the_training_module_loads_from_its_file(tag: dict[str, str], tao_state: State) -> None:
    tao = recognised(
        {
            "state_dict": {**tao_state, "criterion.weight": torch.tensor([1.0, 10.0])},
            "epoch": 9,
            "pytorch-lightning_version": "2.4.0",
            "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}],
            "callbacks": {"ModelCheckpoint": {"dirpath": PurePosixPath("/results")}},
            **tag,
        }
    )
    assert tao is not None
    assert (tao.epoch, tao.versions, tao.class_weights) == (9, {"pytorch-lightning": "2.4.0"}, (1.0, 10.0))
    network = fitting()
    load_tao_state(network, tao.tensors, where="x.tlt")
    joint = tao_state["model.decoder.diff_c4.0.weight"].float()
    assert torch.equal(network.pyramid.difference[0].test_half.weight, joint[:, :256])
    assert torch.equal(network.pyramid.difference[0].golden_half.weight, joint[:, 256:])
    assert torch.equal(network.backbone.class_token, tao_state["model.backbone.cls_token"].float())


SPEC = {"model": {"backbone": {"type": "fan_tiny_8_p4_hybrid"}}, "dataset": {"classify": {"num_input": 1}}}


@pytest.mark.parametrize(
    "settings",
    [
        SPEC,
        {"experiment_spec": SPEC, "dm": None},
        {"experiment_spec": OmegaConf.create(SPEC)},
        argparse.Namespace(cfg=argparse.Namespace(**SPEC)),
    ],
)
def test_the_spec_of_the_training_is_found_in_whatever_holds_it(settings: object, tao_state: State) -> None:
    tao = recognised({"state_dict": tao_state, "hyper_parameters": settings})
    assert tao is not None
    assert tao.spec == SPEC


def test_a_spec_that_never_ends_is_none(tao_state: State) -> None:
    node: object = 1
    for _ in range(40):
        node = {"left": node, "right": node}
    tao = recognised({"state_dict": tao_state, "hyper_parameters": {"model": {"a": node}, "dataset": {}}})
    assert tao is not None
    assert tao.spec == {}


@pytest.mark.parametrize("settings", [{}, None, {"lr": 0.1}, [1, 2], "text", {"model": 3, "dataset": 4}])
def test_settings_without_a_spec_are_none(settings: object, tao_state: State) -> None:
    tao = recognised({"state_dict": tao_state, "hyper_parameters": settings})
    assert tao is not None
    assert tao.spec == {}


def test_prefixes_of_training_on_several_gpus_are_dropped(tao_state: State) -> None:
    plain = recognised({"state_dict": tao_state})
    shared = recognised(
        {"state_dict": {f"module.{name}": each for name, each in tao_state.items()} | {"module.criterion.weight": ONES}}
    )
    assert plain is not None
    assert shared is not None
    assert list(shared.tensors) == list(plain.tensors)
    assert shared.class_weights == (1.0, 1.0)


def test_missing_and_left_over_tensors_are_named(tao_state: State) -> None:
    state = {**tao_state, "model.decoder.surprise": torch.zeros(1)}
    del state["model.backbone.blocks.3.attn.kv.weight"]
    with pytest.raises(CheckpointError) as caught:
        load_tao_state(fitting(), strip_training_module(state), where="x.pth")
    text = str(caught.value)
    assert "backbone.blocks.3.token_mix.key_value.weight" in text
    assert "decoder.surprise" in text


@pytest.mark.parametrize("changes", [{"image_size": (64, 32)}, {"num_classes": 3}, {"learnable_difference_modules": 4}])
def test_settings_that_differ_from_the_training_are_refused(changes: dict[str, Any], tao_state: State) -> None:
    with pytest.raises(CheckpointError, match=r"the file has (.|\n)*must be those of the training"):
        load_tao_state(fitting(**changes), strip_training_module(tao_state))


def test_align_corners_is_switched_off_with_a_warning(tao_state: State, caplog: pytest.LogCaptureFixture) -> None:
    network = fitting(align_corners=True)
    with caplog.at_level(logging.WARNING):
        load_tao_state(network, strip_training_module(tao_state))
    assert "align_corners" in caplog.text
    assert network.arguments["align_corners"] is False


def test_other_checkpoints_are_told_apart(make_network: Make, tao_state: State) -> None:
    ours = make_network().state_dict()
    assert not is_tao_state(ours)
    for content in ({"state_dict": ours}, ours, {"epoch": 3}, [1], {}):
        assert recognised(content) is None
    assert recognised(tao_state) is not None
    with pytest.raises(CheckpointError, match="visual_changenet_segment"):
        recognised({"state_dict": ours, "tao_model": "visual_changenet_segment"})
    with pytest.raises(CheckpointError, match="encrypted by TAO"):
        recognised({"state_dict_encrypted": True, "state_dict": b"x"})
