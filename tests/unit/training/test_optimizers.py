from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from changenet.training.optimizers import learning_rate_factor, make_optimizer, make_schedule


@pytest.mark.parametrize("epochs", [1, 2, 10])
def test_linear_ends_where_tao_ends(epochs: int) -> None:
    factors = [
        learning_rate_factor(epoch * 5, policy="linear", steps_per_epoch=5, num_epochs=epochs)
        for epoch in range(epochs)
    ]
    assert factors[0] == 1.0
    assert factors[-1] == pytest.approx(2 / (epochs + 1))


def test_linear_is_constant_within_an_epoch() -> None:
    factors = {learning_rate_factor(step, policy="linear", steps_per_epoch=7, num_epochs=4) for step in range(7, 14)}
    assert len(factors) == 1


@pytest.mark.parametrize(("epochs", "expected"), [(1, [1]), (2, [1, 0.1]), (6, [1, 1, 0.1, 0.1, 0.01, 0.01])])
def test_step_falls_to_a_tenth_and_is_safe_below_three_epochs(epochs: int, expected: list[float]) -> None:
    factors = [learning_rate_factor(e, policy="step", steps_per_epoch=1, num_epochs=epochs) for e in range(epochs)]
    assert factors == pytest.approx(expected)


@given(
    policy=st.sampled_from(["linear", "step", "cosine"]),
    steps=st.integers(1, 50),
    epochs=st.integers(1, 20),
    warmup=st.integers(0, 200),
    step=st.integers(0, 1200),
)
def test_factor_stays_between_0_and_1(policy: str, steps: int, epochs: int, warmup: int, step: int) -> None:
    factor = learning_rate_factor(step, policy=policy, steps_per_epoch=steps, num_epochs=epochs, warmup_steps=warmup)
    assert 0 <= factor <= 1


def test_warm_up_rises_and_cosine_ends_at_zero() -> None:
    factors = [
        learning_rate_factor(step, policy="cosine", steps_per_epoch=10, num_epochs=4, warmup_steps=5)
        for step in range(41)
    ]
    assert factors[:5] == sorted(factors[:5])
    assert factors[5] == pytest.approx(1.0)
    assert factors[40] == pytest.approx(0.0)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimisers_leave_frozen_parameters_out_and_take_steps(name: str) -> None:
    layer = nn.Linear(3, 1)
    layer.bias.requires_grad_(False)
    before = layer.weight.detach().clone()
    optimizer = make_optimizer(layer.parameters(), name=name, learning_rate=0.1, weight_decay=0.0)
    schedule = make_schedule(optimizer, policy="linear", steps_per_epoch=1, num_epochs=4)
    layer(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    schedule.step()
    assert len(optimizer.param_groups[0]["params"]) == 1
    assert not torch.equal(before, layer.weight)
    assert schedule.get_last_lr() == [pytest.approx(0.08)]
