"""A new encoder is one file, which this one stands for, and one line in the catalogue."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from changenet import factory
from changenet.errors import SpecError
from changenet.model.backbones.registry import Backbone, Request, register
from changenet.model.catalogue import CATALOGUE, IMAGENET_MEAN, IMAGENET_STD, BackboneFacts
from changenet.spec import Experiment, load_spec
from ray_jobs import models


class Stairs(Backbone):
    widths = (8, 8, 16, 16)
    strides = (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        sizes = zip((3, *self.widths), self.widths, (4, 2, 2, 2), strict=False)
        self.steps = nn.ModuleList(nn.Conv2d(before, after, step, step) for before, after, step in sizes)

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        maps = [picture]
        for step in self.steps:
            maps.append(step(maps[-1]).relu())
        return tuple(maps[1:])


@register("stairs")
def build_stairs(name: str, request: Request) -> Backbone:
    return Stairs()


LINE = BackboneFacts(
    "stairs",
    "convolutional",
    "stairs",
    side_multiple=32,
    strides=Stairs.strides,
    widths=Stairs.widths,
    parameters=sum(each.numel() for each in Stairs().parameters()),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, LINE.name, LINE)
    monkeypatch.setitem(sys.modules, f"changenet.model.backbones.{LINE.module}", sys.modules[__name__])


def experiment(folder: Path, *overrides: str) -> Experiment:
    spec = {"model": {"backbone": {"type": "stairs"}}, "dataset": {"classify": {"image_width": 64, "image_height": 32}}}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return load_spec(folder / "spec.yaml", ["model.decode_head.decoder_params.embed_dim=8", *overrides]).experiment


@pytest.mark.parametrize("difference", ["learnable", "euclidean"])
def test_a_spec_makes_a_network_of_it_that_learns(difference: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = experiment(tmp_path, f"model.classify.difference_module={difference}")
    network, loss = factory.make_network(spec).train(), factory.make_loss(spec)
    assert isinstance(network.backbone, Stairs)
    test, golden, target = torch.randn(4, 3, 32, 64), torch.randn(4, 3, 32, 64), torch.tensor([0, 1, 0, 1])
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(loss(network(test, golden), target))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert all(step.weight.grad is not None and step.weight.grad.any() for step in network.backbone.steps)


def test_it_starts_from_a_file_and_stays_frozen(tmp_path: Path) -> None:
    trained = Stairs()
    torch.save(trained.state_dict(), tmp_path / "stairs.pth")
    path = f"model.backbone.pretrained_backbone_path={tmp_path / 'stairs.pth'}"
    network = factory.make_network(experiment(tmp_path, path, "model.backbone.freeze_backbone=true"))
    assert torch.equal(network.backbone.steps[3].weight, trained.steps[3].weight)
    assert not any(each.requires_grad for each in network.backbone.parameters())


def test_the_spec_knows_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="stairs needs a multiple of 32"):
        experiment(tmp_path, "dataset.classify.image_width=48")
    with pytest.raises(SpecError, match="stairs is no FAN encoder"):
        experiment(tmp_path, "model.backbone.feat_downsample=true")
    with pytest.raises(SpecError, match="Did you mean 'stairs'"):
        experiment(tmp_path, "model.backbone.type=stair")


def test_it_is_listed_under_a_title_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    models.run("stairs")
    title, _, line = capsys.readouterr().out.splitlines()[:3]
    assert title == "Other convolutional networks"
    assert "sides are multiples of 32" in line
    assert "8/8/16/16 wide at 4/8/16/32" in line
