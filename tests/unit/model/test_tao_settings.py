from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from changenet.model.tao_settings import differing_settings, shown_settings

CASES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parents[2] / "parity" / "cases.json").read_text())
HERE = [name for name in CASES if not name.startswith("segment_")]


def state(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape, _ in case["tensors"]}


def arguments(case: dict[str, Any], **changes: Any) -> dict[str, Any]:
    names = (
        "backbone", "difference_module", "embed_dim", "embed_dec", "learnable_difference_modules", "num_golden",
        "num_classes", "use_summary_token",
    )  # fmt: skip
    settings = {name: case["settings"][name] for name in names}
    return {**settings, "embedding_vectors": 5, "image_size": case["test_shape"][-2:], **changes}


@pytest.mark.parametrize("name", HERE)
def test_a_network_of_the_same_settings_differs_in_nothing(name: str) -> None:
    assert not list(differing_settings(arguments(CASES[name]), state(CASES[name]), where="x.pth"))


def test_every_setting_is_shown() -> None:
    shown = shown_settings(state(CASES["fan_small_learnable_classes5"]))
    assert shown == {
        "model.classify.difference_module": "learnable",
        "model.classify.embed_dec": 30,
        "model.classify.learnable_difference_modules": 4,
        "model.decode_head.decoder_params.embed_dim": 256,
        "model.decode_head.use_summary_token": False,
        "dataset.classify.num_classes": 5,
        "dataset.classify.num_golden": "1",
        "image_width x image_height of dataset.classify, all lights together": 64 * 64,
    }


@pytest.mark.parametrize(
    ("name", "changes", "lines"),
    [
        ("fan_tiny_learnable_modules2", {"embed_dec": 7}, ["model.classify.embed_dec: is 7, the file has 30"]),
        ("fan_tiny_learnable_modules2", {"embed_dim": 8}, ["decoder_params.embed_dim: is 8, the file has 256"]),
        ("fan_tiny_learnable_modules2", {"num_classes": 3}, ["dataset.classify.num_classes: is 3, the file has 2"]),
        (
            "fan_tiny_learnable_modules2",
            {"learnable_difference_modules": 4, "image_size": [256, 64]},
            ["learnable_difference_modules: is 4, the file has 2", "is 16384, the file has 4096"],
        ),
        (
            "fan_tiny_learnable_modules2",
            {"backbone": "fan_base_16_p4_hybrid"},
            ["levels of 128, 256, 192, 192 channels. They are those of fan_tiny_8_p4_hybrid"],
        ),
        ("fan_small_euclidean", {"difference_module": "learnable"}, ["is learnable, the file has euclidean"]),
        ("fan_small_euclidean", {"embedding_vectors": 9}, ["embedding_vectors: is 9, the file has 5"]),
        ("c_radio_v2_base_learnable", {"use_summary_token": False}, ["is False, the file has True"]),
        ("c_radio_v2_base_learnable_goldens4", {"num_golden": 1}, ["num_golden: is 1, the file has more than 1"]),
    ],
)
def test_what_differs_is_told_by_the_key_of_the_spec(name: str, changes: dict[str, Any], lines: list[str]) -> None:
    found = [str(each) for each in differing_settings(arguments(CASES[name], **changes), state(CASES[name]), where="x")]
    assert len(found) == len(lines)
    for line in lines:
        assert any(line in each for each in found), found


def test_a_damaged_head_shows_nothing() -> None:
    broken = {"decoder.classifier.0.weight": torch.empty(()), "backbone.a": torch.empty(1)}
    assert "model.classify.embed_dec" not in shown_settings(broken)
