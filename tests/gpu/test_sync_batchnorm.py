"""`train.sync_batchnorm` on GPUs: every rank normalises by the rows of all ranks."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn

from changenet.training.batchnorm import synchronised

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="synchronising takes two CUDA devices"),
]
ROWS = 8


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def _pictures() -> torch.Tensor:
    return torch.randn(ROWS, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _rank(rank: int, meeting: str, folder: str) -> None:
    torch.cuda.set_device(rank)
    distributed.init_process_group("nccl", init_method=f"file://{meeting}", rank=rank, world_size=2)
    try:
        network = synchronised(copy.deepcopy(_network())).cuda().train()
        output = network(_pictures().chunk(2)[rank].cuda())
        torch.save((output.detach().cpu(), network[1].running_mean.cpu()), f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_two_ranks_normalise_as_one(tmp_path: Path) -> None:
    multiprocessing.spawn(_rank, (str(tmp_path / "meeting"), str(tmp_path)), nprocs=2)
    whole = _network().train()
    wanted = whole(_pictures()).detach()
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(torch.cat([output for output, _ in parts]), wanted, rtol=1e-3, atol=1e-3)
    for _, mean in parts:
        torch.testing.assert_close(mean, whole[1].running_mean, rtol=1e-3, atol=1e-4)
