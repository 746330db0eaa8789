"""What a run needs, beside the weights, to go on as if it had not stopped."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch


@dataclass
class Progress:
    """Where a run stands.

    Args:
        epoch: Zero-based epoch to run next (or to go on with).
        batch: Batches of that epoch that are done.
        step: Optimiser steps done in all.
        monitor: Name of the monitored metric.
        best: Best value of it so far.
        reference: Its value when it last got better by `min_delta` (early stopping).
        stale: Validations since then.
        trained: Figures of that epoch's training when nothing but its validation is left to do; else empty.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    monitor: str = ""
    best: float | None = None
    stale: int = 0
    reference: float | None = None
    trained: dict[str, Any] = field(default_factory=dict)

    def improves(self, value: float | None, *, name: str, mode: str, min_delta: float = 0.0) -> bool:
        """Note the value of the monitored metric; say whether it is the best so far (`mode`: `min` or `max`).

        None, where the metric was not measured or is undefined, changes nothing. Another metric than before starts anew.
        """
        if name != self.monitor:
            self.monitor, self.best, self.reference, self.stale = name, None, None, 0
        if value is None or math.isnan(value):
            return False
        sign = 1.0 if mode == "min" else -1.0
        if self.reference is None or sign * value < sign * self.reference - min_delta:
            self.reference, self.stale = value, 0
        else:
            self.stale += 1
        better = self.best is None or sign * value < sign * self.best
        self.best = value if better else self.best
        return better

    def is_due(self, every: int, unit: Literal["epoch", "step"]) -> bool:
        """Say, at the end of an epoch, whether a checkpoint is due: `epoch` counts it already."""
        return (self.epoch if unit == "epoch" else self.step) % every == 0


@dataclass
class Stateful:
    """The objects whose state a checkpoint's `training` part carries.

    Args:
        optimizer: The optimiser.
        schedule: Its learning-rate schedule.
        scaler: The gradient scaler of `16-mixed`.
        average: The averaged network of `train.ema_decay`, or None.
    """

    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    average: torch.optim.swa_utils.AveragedModel | None = None

    def capture(self, progress: Progress, network: torch.nn.Module) -> dict[str, Any]:
        """Return plain values and tensors, as `torch.load(weights_only=True)` reads them."""
        return {
            "progress": dict(vars(progress)),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            # With averaging the file's weights are the averaged ones; the trained ones are needed to go on.
            "raw_weights": network.state_dict() if self.average is not None else None,
            "averaged_steps": int(self.average.n_averaged) if self.average is not None else 0,
        }

    def restore(self, training: dict[str, Any], network: torch.nn.Module) -> Progress:
        """Put everything back after the file's weights were loaded into `network`; return where the run stood.

        Learning rate, weight decay and momentum stay those of this run: what the spec says now, holds.
        """
        chosen = [
            {name: value for name, value in group.items() if name not in ("params", "lr")}
            for group in self.optimizer.param_groups
        ]
        base_rates = list(self.schedule.base_lrs)
        if self.average is not None:
            self.average.module.load_state_dict(network.state_dict())
            self.average.n_averaged.fill_(training["averaged_steps"])
        if training["raw_weights"] is not None:
            network.load_state_dict(training["raw_weights"])
        self.optimizer.load_state_dict(training["optimizer"])
        self.schedule.load_state_dict(training["schedule"])
        self.schedule.base_lrs = base_rates
        factor = self.schedule.lr_lambdas[0](self.schedule.last_epoch)
        for group, options in zip(self.optimizer.param_groups, chosen, strict=True):
            group.update(options, lr=options["initial_lr"] * factor)
        self.scaler.load_state_dict(training["scaler"])
        return Progress(**training["progress"])
