"""Weights that a spec starts a network from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from changenet import factory
from changenet.data.pairs import PairSource
from changenet.errors import CheckpointError, DataError, SpecError
from changenet.factory.quantization import validation_pairs
from changenet.model.network import ChangeNet
from changenet.model.tao_checkpoint import load_tao_state, strip_training_module
from changenet.spec import Experiment, load_spec
from changenet.training.checkpoint import Checkpoint, save_checkpoint

Write = Callable[..., str]


@pytest.fixture
def experiment(tao_spec: dict[str, Any], tmp_path: Path) -> Callable[..., Experiment]:
    def load(path: str, *overrides: str) -> Experiment:
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(tao_spec))
        return load_spec(tmp_path / "spec.yaml", [f"train.pretrained_model_path={path}", *overrides]).experiment

    return load


def test_validation_pairs_come_in_batches_and_only_when_asked_for(
    checkpoint: Checkpoint, pair_folder: Path, experiment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = f"{{csv_path: {pair_folder}/val.csv, images_dir: {pair_folder}/images}}"
    named = experiment("", f"dataset.classify.validation_dataset={files}")
    read: list[int] = []
    reads = PairSource.read
    monkeypatch.setattr(PairSource, "read", lambda self, row: read.append(row) or reads(self, row))
    found = validation_pairs(named, checkpoint.description, 20)
    assert read == []
    test, golden = next(found)
    assert test.shape == golden.shape == (8, 3, 32, 32)
    assert len(read) == 8
    assert [len(test) for test, _ in found] == [8, 4]
    with pytest.raises(SpecError, match="neither spec nor checkpoint names"):
        next(validation_pairs(experiment(""), checkpoint.description, 20))
    gone = experiment("", f"dataset.classify.validation_dataset={files.replace('val.csv', 'gone.csv')}")
    with pytest.raises(DataError, match=r"gone\.csv"):
        next(validation_pairs(gone, checkpoint.description, 20))


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_training_starts_from_a_whole_tao_model(experiment: Any, write_tao: Write, tao_state: Any) -> None:
    spec = experiment(write_tao())
    expected = ChangeNet(**factory.network_arguments(spec))
    assert not same(factory.make_network(spec), expected)
    load_tao_state(expected, strip_training_module(tao_state))
    assert same(factory.make_network(spec), expected)


def test_the_loss_keeps_the_weights_of_the_spec(experiment: Any, write_tao: Write) -> None:
    spec = experiment(write_tao(), "train.classify.cls_weight=[1, 3]")  # the file says 1 and 10
    factory.make_network(spec)
    logits, target = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    expected = torch.nn.functional.cross_entropy(logits, target, weight=torch.tensor([1.0, 3.0]))
    assert factory.make_loss(spec)(logits, target) == pytest.approx(float(expected))


def test_training_starts_from_a_model_of_ours(experiment: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "ours.pth")
    spec = experiment(path)
    torch.manual_seed(5)
    trained = ChangeNet(**factory.network_arguments(spec))
    save_checkpoint(path, Checkpoint(factory.describe(spec, trained.arguments), trained.state_dict()))
    assert same(factory.make_network(spec), trained)


def test_an_encrypted_model_of_ours_gives_its_encoder(tao_spec: dict[str, Any], tmp_path: Path) -> None:
    path = str(tmp_path / "sealed.pth")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(tao_spec))
    overrides = [f"model.backbone.pretrained_backbone_path={path}", "encryption_key=secret"]
    spec = load_spec(tmp_path / "spec.yaml", overrides).experiment
    trained = ChangeNet(**factory.network_arguments(spec))
    described = factory.describe(spec, trained.arguments)
    save_checkpoint(path, Checkpoint(described, trained.state_dict()), encryption_key="secret")
    assert same(factory.make_network(spec).backbone, trained.backbone)


@pytest.mark.parametrize("ours", [True, False])
def test_tensors_that_differ_are_listed(ours: bool, experiment: Any, write_tao: Write, tmp_path: Path) -> None:
    path = str(tmp_path / "ours.pth") if ours else write_tao()
    if ours:
        trained = ChangeNet(**factory.network_arguments(experiment(path)))
        save_checkpoint(path, Checkpoint(factory.describe(experiment(path), trained.arguments), trained.state_dict()))
    with pytest.raises(CheckpointError) as caught:
        factory.make_network(experiment(path, "model.classify.embed_dec=7"))
    text = str(caught.value)
    assert "tensors are of another shape: head.layers.0.weight (6, 512) (here (7, 512))" in text
    assert path in text


def test_align_corners_stays_off_in_training_on_from_tao(
    experiment: Any, write_tao: Write, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        network = factory.make_network(experiment(write_tao(), "model.decode_head.align_corners=true"))
    assert network.arguments["align_corners"] is False
    assert "align_corners" in caplog.text


@pytest.mark.parametrize(
    ("mean", "std", "own"),
    [
        (None, None, True),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], True),
        ([0.48505, 0.456, 0.406], [0.226, 0.226, 0.226], True),
        ([0.5, 0.5, 0.5], [0.229, 0.224, 0.225], False),
        ([0.485, 0.456, 0.406], [0.25, 0.25, 0.25], False),
    ],
)
def test_imagenet_statistics_mean_c_radios_own(
    mean: list[float] | None, std: list[float] | None, own: bool, tmp_path: Path
) -> None:
    changes = {"rgb_input_mean": mean, "rgb_input_std": std}
    for backbone, taken in (("c_radio_v2_vit_base_patch16_224", not own), ("fan_tiny_8_p4_hybrid", True)):
        spec = {
            "model": {"backbone": {"type": backbone}},
            "dataset": {"classify": {"augmentation_config": changes, "image_width": 224, "image_height": 224}},
        }
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
        arguments = factory.network_arguments(load_spec(tmp_path / "spec.yaml").experiment)
        expected = (tuple(mean or ()) or None, tuple(std or ()) or None) if taken else (None, None)
        assert (arguments["mean"], arguments["std"]) == expected


@pytest.mark.parametrize("summary", [True, False])
def test_a_spec_makes_a_vit_with_an_adapter(summary: bool) -> None:
    spec = Experiment.model_validate(
        {
            "model": {
                "backbone": {"type": "c_radio_v2_vit_base_patch16_224"},
                "decode_head": {"use_summary_token": summary},
            }
        }
    )
    with torch.device("meta"):
        network = factory.make_network(spec)
    assert network.image_size == (224, 224)
    assert (network.backbone.summary is not None) == summary
    assert network.arguments["mean"] == [0.48145466, 0.4578275, 0.40821073]  # CLIP's
