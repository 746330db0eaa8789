"""Optimisers and learning-rate policies by the names of the spec."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

BETAS = (0.9, 0.999)  # fixed in TAO as well


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    *,
    name: str = "adamw",
    learning_rate: float = 5e-4,
    weight_decay: float = 0.1,
    momentum: float = 0.9,
) -> torch.optim.Optimizer:
    """Return `adamw`, `adam` or `sgd` over the trainable parameters, in one group as TAO does.

    Args:
        parameters: Frozen ones are left out.
        name: `momentum` is used by `sgd` alone; the betas of the Adam family are fixed at 0.9 and 0.999.
        learning_rate: Of the first epoch, before the policy scales it.
        weight_decay: Decoupled for `adamw`, an L2 term for the others.
        momentum: For `sgd`.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    match name:
        case "adamw":
            return torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=weight_decay, betas=BETAS)
        case "adam":
            return torch.optim.Adam(trainable, lr=learning_rate, weight_decay=weight_decay, betas=BETAS)
        case "sgd":
            return torch.optim.SGD(trainable, lr=learning_rate, weight_decay=weight_decay, momentum=momentum)
    raise ValueError(f"unknown optimiser {name!r}")


def learning_rate_factor(
    step: int, *, policy: str, steps_per_epoch: int, num_epochs: int, warmup_steps: int = 0
) -> float:
    """Return what the learning rate is multiplied by at an optimiser step.

    `linear` (TAO 7.3): constant within an epoch, `1 - e / (E + 1)` in epoch e of E. `step` (TAO 7.3): a tenth after
    every `E // 3` epochs, which are at least one here (TAO fails below three epochs). `cosine`: from 1 to 0 over all steps
    after the warm-up (Loshchilov and Hutter, "SGDR", ICLR 2017). The warm-up rises linearly and multiplies any policy.

    >>> [round(learning_rate_factor(s, policy="linear", steps_per_epoch=1, num_epochs=4), 2) for s in range(4)]
    [1.0, 0.8, 0.6, 0.4]
    """
    epoch = step // steps_per_epoch
    match policy:
        case "linear":
            factor = 1 - min(epoch, num_epochs) / (num_epochs + 1)
        case "step":
            factor = 0.1 ** (epoch // max(1, num_epochs // 3))
        case "cosine":
            span = max(1, steps_per_epoch * num_epochs - warmup_steps)
            progress = min(1.0, max(0, step - warmup_steps) / span)
            factor = 0.5 * (1 + math.cos(math.pi * progress))
        case _:
            raise ValueError(f"unknown learning-rate policy {policy!r}")
    return factor * min(1.0, (step + 1) / warmup_steps) if warmup_steps else factor


def make_schedule(
    optimizer: torch.optim.Optimizer, *, policy: str, steps_per_epoch: int, num_epochs: int, warmup_steps: int = 0
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the schedule, to be stepped after every optimiser step."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: learning_rate_factor(
            step, policy=policy, steps_per_epoch=steps_per_epoch, num_epochs=num_epochs, warmup_steps=warmup_steps
        ),
    )
