"""One epoch of training and one pass of validation, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from changenet.training.losses import Loss
from changenet.training.precision import autocast


class Batches(Protocol):
    """What a data loader offers: batches of `PairDataset`, and how many there are."""

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class EpochResult:
    """What an epoch gave on this rank.

    Args:
        loss: Mean loss over the batches.
        rows: (n,) row numbers, in the order they were drawn.
        output: (n, C) logits or (n,) distances, float32, CPU.
        target: (n,) class of each row.
    """

    loss: float
    rows: Tensor
    output: Tensor
    target: Tensor

    @classmethod
    def merged(cls, parts: Sequence[EpochResult]) -> EpochResult:
        """Return the rows of all ranks, in row order, and the mean of their losses."""
        filled = [part for part in parts if len(part.rows)]  # an empty one does not know the width of an output
        rows = torch.cat([part.rows for part in filled])
        order = rows.argsort()
        return cls(
            sum(part.loss for part in parts) / len(parts),
            rows[order],
            torch.cat([part.output for part in filled])[order],
            torch.cat([part.target for part in filled])[order],
        )


def train_epoch(
    network: nn.Module,
    batches: Batches,
    *,
    normalise: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    scaler: torch.amp.GradScaler,
    device: torch.device,
    precision: str = "32-true",
    accumulate: int = 1,
    clip_norm: float | None = None,
    after_batch: Callable[[int, bool], object] | None = None,
) -> EpochResult:
    """Train on every batch once.

    Args:
        network: `network(test, golden) -> output`, perhaps wrapped for distributed training.
        batches: As `PairDataset` collates them: uint8 `test` (B, 3, H, W), `golden` (B, [N,] 3, H, W), `label` (B,), `row` (B,).
        normalise: uint8 to the floats that the network takes; runs on the device.
        loss: `loss(output, target)`, in float32.
        optimizer: Stepped after every `accumulate` batches.
        schedule: Stepped with it.
        scaler: Enabled for `16-mixed` alone.
        device: Where the network is.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        accumulate: Batches whose gradients are averaged before a step.
        clip_norm: Largest norm of the gradient; None leaves it.
        after_batch: Called with the batch's number and whether the optimiser stepped.
    """
    network.train()
    losses, kept = [], []
    trainable = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, batch in enumerate(batches):
        test, golden, target = (batch[key].to(device, non_blocking=True) for key in ("test", "golden", "label"))
        with autocast(precision, device):
            output = network(normalise(test), normalise(golden)).float()
        value = loss(output, target)
        torch.autograd.backward(scaler.scale(value / accumulate))
        stepped = (number + 1) % accumulate == 0 or number + 1 == len(batches)
        if stepped:
            scaler.unscale_(optimizer)
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(trainable, clip_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        losses.append(value.detach())
        kept.append((batch["row"], output.detach(), batch["label"]))
        if after_batch is not None:
            after_batch(number, stepped)
    return _collect(kept, float(torch.stack(losses).mean()))


@torch.inference_mode()
def predict(
    network: nn.Module,
    batches: Batches,
    *,
    normalise: nn.Module,
    device: torch.device,
    precision: str = "32-true",
    after_batch: Callable[[int], object] | None = None,
) -> EpochResult:
    """Return the outputs for every batch, in evaluation mode and without gradients; the loss is left at 0.

    `after_batch` is called with the batch's number.
    """
    network.eval()
    kept = []
    for number, batch in enumerate(batches):
        test, golden = (batch[key].to(device, non_blocking=True) for key in ("test", "golden"))
        with autocast(precision, device):
            kept.append((batch["row"], network(normalise(test), normalise(golden)).float(), batch["label"]))
        if after_batch is not None:
            after_batch(number)
    return _collect(kept, 0.0)


def _collect(kept: list[tuple[Tensor, Tensor, Tensor]], loss: float) -> EpochResult:
    if not kept:  # a rank may own no batch of a small validation set
        return EpochResult(loss, torch.empty(0, dtype=torch.int64), torch.empty(0), torch.empty(0, dtype=torch.int64))
    rows, outputs, targets = (torch.cat([tensor.cpu() for tensor in column]) for column in zip(*kept, strict=True))
    return EpochResult(loss, rows, outputs, targets)
