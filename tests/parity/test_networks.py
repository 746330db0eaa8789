"""Our networks against what TAO's gave for the same weights and pictures (release 7.3)."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from changenet.model.network import ChangeNet
from changenet.model.tao_checkpoint import load_tao_state

CASES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("cases.json").read_text())
# Recorded networks of a task that is not here yet.
NOT_YET = ("segment_",)
HERE = [name for name in CASES if not name.startswith(NOT_YET)]
NAMES = [pytest.param(name, marks=[] if "fan_" in name else pytest.mark.slow) for name in CASES]


def build(case: dict[str, Any]) -> ChangeNet:
    settings = case["settings"]
    return ChangeNet(
        backbone=settings["backbone"],
        difference_module=settings["difference_module"],
        image_size=case["test_shape"][-2:],
        num_classes=settings["num_classes"],
        embed_dim=settings["embed_dim"],
        embed_dec=settings["embed_dec"],
        learnable_difference_modules=settings["learnable_difference_modules"],
        feature_strides=case["strides"],
        use_summary_token=settings["use_summary_token"],
        num_golden=settings["num_golden"],
    ).eval()


def assert_agrees(ours: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", HERE)
def test_every_tensor_of_tao_finds_its_place(name: str) -> None:
    case = CASES[name]
    with torch.device("meta"):
        network = build(case)
        tensors = {each: torch.empty(shape) for each, shape, _ in case["tensors"]}
    tensors |= {each: torch.tensor(values).squeeze() for each, values in case["fixed"].items()}
    load_tao_state(network, tensors, where=name)


@pytest.mark.parametrize("name", NAMES)
def test_network_agrees_with_tao(name: str, parity: ModuleType) -> None:
    if name.startswith(NOT_YET):
        pytest.skip("no network of this family yet")
    case = CASES[name]
    with torch.device("meta"):  # random weights of large networks take longer than all the rest
        network = build(case)
    network.to_empty(device="cpu")
    load_tao_state(network, parity.weights(case), where=name)
    test, golden = parity.inputs(case)
    expected = parity.expected(case)
    seen: list[tuple[torch.Tensor, ...]] = []
    network.backbone.register_forward_hook(lambda _module, _inputs, maps: seen.append(maps))
    with torch.no_grad():
        test_features = network.encode(test)
        halves = network.prepare_golden(network.encode(golden.reshape(-1, *golden.shape[-3:])))
        if golden.ndim == 5:
            halves = tuple(each.reshape(*golden.shape[:2], *each.shape[1:]) for each in halves)
        assert_agrees(network.compare(test_features, halves), expected["output"])
        if "fan_" in name:  # of the large ones one way is enough
            assert_agrees(network(test, golden), expected["output"])
    for level, feature in enumerate(seen[0]):
        assert list(feature.shape) == case["feature_shapes"][level]
        recorded = expected[f"feature_{level}"]
        ours = parity.samples(feature.contiguous().numpy())
        assert np.abs(ours - recorded).max() <= 2e-3 * recorded.std()
