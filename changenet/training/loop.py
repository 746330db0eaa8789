"""One epoch of training and one pass of validation, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, distributed, nn

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
        rows: (n,) row numbers, in the order they were drawn.
        output: (n, C) logits or (n,) distances, float32, CPU.
        target: (n,) class of each row.
    """

    rows: Tensor
    output: Tensor
    target: Tensor

    @classmethod
    def merged(cls, parts: Sequence[EpochResult]) -> EpochResult:
        """Return the rows of all ranks, in row order."""
        filled = [part for part in parts if len(part.rows)]  # an empty one does not know the width of an output
        rows = torch.cat([part.rows for part in filled])
        order = rows.argsort()
        return cls(
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
    before_batch: Callable[[int], object] | None = None,
    after_batch: Callable[[int, bool], object] | None = None,
) -> EpochResult:
    """Train on every batch once.

    A step follows the gradient of the mean loss over all rows of its batches, those of all ranks of the default process
    group (if there is one) together: how they are cut into batches and shared out makes no difference to it.

    Args:
        network: `network(test, golden) -> output`, perhaps wrapped for distributed training.
        batches: As `PairDataset` collates them: uint8 `test` (B, 3, H, W), `golden` (B, [N,] 3, H, W), `label` (B,), `row` (B,);
            as large and as many on every rank.
        normalise: uint8 to the floats that the network takes; runs on the device.
        loss: Of output and target, in float32.
        optimizer: Stepped after every `accumulate` batches, and after the last one.
        schedule: Stepped with it.
        scaler: Enabled for `16-mixed` alone.
        device: Where the network is.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        accumulate: Batches that a step is for.
        clip_norm: Largest norm of the gradient; None leaves it.
        before_batch: Called with the batch's number before the network sees it.
        after_batch: Called with the batch's number and whether the optimiser stepped.
    """
    network.train()
    kept, weight_of_step = [], torch.zeros((), device=device)
    trainable = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, batch in enumerate(batches):
        if before_batch is not None:
            before_batch(number)
        test, golden, target = (batch[key].to(device, non_blocking=True) for key in ("test", "golden", "label"))
        with autocast(precision, device):
            output = network(normalise(test), normalise(golden)).float()
        total, weight = loss.sums(output, target)
        torch.autograd.backward(scaler.scale(total / len(target)))  # as large as a mean: float16 has a narrow range
        weight_of_step += weight
        stepped = (number + 1) % accumulate == 0 or number + 1 == len(batches)
        if stepped:
            scaler.unscale_(optimizer)
            _make_mean(trainable, rows=len(target), weight=weight_of_step)
            weight_of_step.zero_()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(trainable, clip_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        kept.append((batch["row"], output.detach(), batch["label"]))
        if after_batch is not None:
            after_batch(number, stepped)
    return _collect(kept)


def _make_mean(parameters: Sequence[nn.Parameter], *, rows: int, weight: Tensor) -> None:
    """Turn gradients of summed losses, divided by `rows` and averaged over the ranks, into those of the weighted mean."""
    ranks = 1
    if distributed.is_available() and distributed.is_initialized():
        ranks = distributed.get_world_size()
        distributed.all_reduce(weight)
    factor = ranks * rows / weight.clamp_min(torch.finfo(weight.dtype).tiny)  # rows without any weight: no gradient
    torch._foreach_mul_([each.grad for each in parameters if each.grad is not None], factor)


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
    """Return the outputs for every batch, in evaluation mode and without gradients.

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
    return _collect(kept)


def _collect(kept: list[tuple[Tensor, Tensor, Tensor]]) -> EpochResult:
    if not kept:  # a rank may own no batch of a small validation set
        return EpochResult(torch.empty(0, dtype=torch.int64), torch.empty(0), torch.empty(0, dtype=torch.int64))
    rows, outputs, targets = (torch.cat([tensor.cpu() for tensor in column]) for column in zip(*kept, strict=True))
    return EpochResult(rows, outputs, targets)
