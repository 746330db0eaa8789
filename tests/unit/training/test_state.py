from __future__ import annotations

import torch
from torch import nn

from changenet.training.optimizers import make_optimizer, make_schedule
from changenet.training.state import Progress, Stateful


def stateful(network: nn.Module, *, rate: float, decay: float = 0.1) -> Stateful:
    optimizer = make_optimizer(network.parameters(), learning_rate=rate, weight_decay=decay)
    schedule = make_schedule(optimizer, policy="linear", steps_per_epoch=1, num_epochs=4)
    return Stateful(optimizer, schedule, torch.amp.GradScaler("cpu", enabled=False))


def train(network: nn.Module, state: Stateful, steps: int) -> None:
    for _ in range(steps):
        network(torch.ones(1, 3)).sum().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.schedule.step()


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped() -> None:
    torch.manual_seed(0)
    straight, stopped = nn.Linear(3, 2), nn.Linear(3, 2)
    stopped.load_state_dict(straight.state_dict())
    train(straight, stateful(straight, rate=0.1), 4)
    first = stateful(stopped, rate=0.1)
    train(stopped, first, 2)
    resumed = nn.Linear(3, 2)
    resumed.load_state_dict(stopped.state_dict())
    second = stateful(resumed, rate=0.1)
    assert second.restore(first.capture(Progress(epoch=2, step=2), stopped), resumed) == Progress(epoch=2, step=2)
    train(resumed, second, 2)
    assert torch.equal(resumed.weight, straight.weight)


def test_what_the_spec_says_now_holds_after_a_restart() -> None:
    network = nn.Linear(3, 2)
    first = stateful(network, rate=0.1)
    train(network, first, 1)
    second = stateful(network, rate=0.01, decay=0.2)
    second.restore(first.capture(Progress(), network), network)
    (group,) = second.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.01 * 0.8, 0.2)
    train(network, second, 1)
    assert second.optimizer.param_groups[0]["lr"] == 0.01 * (1 - 2 / 5)


def test_the_best_value_is_never_no_number() -> None:
    progress = Progress()
    assert not progress.improves(float("nan"), name="val_loss", mode="min")
    assert not progress.improves(None, name="val_loss", mode="min")
    assert progress.stale == 0
    assert [progress.improves(value, name="val_loss", mode="min") for value in (0.5, 0.6, 0.4)] == [True, False, True]


def test_a_small_improvement_is_the_best_and_yet_stale() -> None:
    progress = Progress()
    better = [progress.improves(value, name="val_loss", mode="min", min_delta=0.5) for value in (5.0, 4.8, 4.6, 4.4)]
    assert better == [True] * 4
    assert (progress.stale, progress.reference, progress.best) == (0, 4.4, 4.4), "0.6 in all since the reference"
    assert progress.improves(4.3, name="val_loss", mode="min", min_delta=0.5)
    assert progress.stale == 1


def test_a_checkpoint_is_due_by_epochs_or_by_steps() -> None:
    progress = Progress(epoch=3, step=10)
    assert progress.is_due(3, "epoch")
    assert not progress.is_due(3, "step")
    assert progress.is_due(5, "step")
