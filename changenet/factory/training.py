"""From the spec to what trains a network."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from changenet.data.randomness import derived_seed
from changenet.model.network import ChangeNet
from changenet.spec import Experiment
from changenet.training import losses, optimizers
from changenet.training.state import Stateful


def make_loss(experiment: Experiment) -> losses.Loss:
    """Return the loss of the spec."""
    return losses.make_loss(
        experiment.loss,
        margin=experiment.model.classify.train_margin_euclid,
        class_weights=experiment.train.classify.cls_weight,
    )


def make_stateful(
    experiment: Experiment, network: ChangeNet, *, steps_per_epoch: int, device: torch.device
) -> Stateful:
    """Return optimiser, schedule, gradient scaler and weight average for a network that is on its device."""
    settings = experiment.train
    optimizer = optimizers.make_optimizer(
        network.parameters(),
        name=settings.optim.optim,
        learning_rate=settings.optim.lr,
        weight_decay=settings.optim.weight_decay,
        momentum=settings.optim.momentum,
    )
    schedule = optimizers.make_schedule(
        optimizer,
        policy=settings.optim.policy,
        steps_per_epoch=steps_per_epoch,
        num_epochs=settings.num_epochs,
        warmup_steps=settings.optim.warmup_steps,
    )
    average = None
    if settings.ema_decay is not None:
        swa = torch.optim.swa_utils
        decay = swa.get_ema_multi_avg_fn(settings.ema_decay)  # type: ignore[no-untyped-call]
        average = swa.AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "16-mixed")
    return Stateful(optimizer=optimizer, schedule=schedule, scaler=scaler, average=average)


def seed_process(experiment: Experiment, *, rank: int) -> None:
    """Seed every random generator of this process, and choose cuDNN's kernels, as the spec says."""
    if experiment.train.seed >= 0:
        seed = derived_seed("process", seed=experiment.train.seed, rank=rank)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
    cudnn = experiment.train.cudnn
    torch.backends.cudnn.benchmark = cudnn.benchmark
    torch.backends.cudnn.deterministic = cudnn.deterministic
    if cudnn.deterministic and torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
