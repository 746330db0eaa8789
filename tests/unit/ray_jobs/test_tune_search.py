"""What a scheduler knows of a sweep that goes on: the trials of the run before, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from changenet.evaluation.objective import Objective
from changenet.spec.sweep import load_sweep
from ray_jobs.curve import EPOCHS, METRIC
from ray_jobs.tune_search import make_scheduler, replay
from ray_jobs.tune_state import SweepState, Trial

LOSS = Objective(name="val_loss", mode="min", passes=0, defects=0)
Make = Callable[..., tuple[Any, SweepState]]


@pytest.fixture
def went_on(write_spec: Callable[..., str], tmp_path: Path) -> Make:
    """Makes the scheduler of a sweep of nine epochs whose earlier trials had these losses, epoch by epoch."""

    def make(scheduler: str, **losses: list[float]) -> tuple[Any, SweepState]:
        (tmp_path / "sweep.yaml").write_text(
            yaml.safe_dump({"scheduler": scheduler, "space": {"train.optim.lr": {"uniform": [0.1, 0.2]}}})
        )
        sweep, _ = load_sweep(tmp_path / "sweep.yaml", write_spec())
        state = SweepState(str(tmp_path), sweep.shape)
        for name, curve in losses.items():
            status: Any = "interrupted" if name == "cut_short" else "finished"
            state.trials[name] = Trial(name, {}, {}, status=status)
            metrics = Path(state.path(state.trials[name], "metrics.csv"))
            metrics.parent.mkdir(parents=True)
            lines = [f"{epoch},{loss}" for epoch, loss in enumerate(curve)]
            metrics.write_text("\n".join(["epoch,val_loss", *lines]) + "\n")
        return make_scheduler(sweep, state, objective=LOSS, num_epochs=9, most_epochs=9), state

    return make


def _answer(scheduler: Any, trial: Any, epoch: int, loss: float) -> str:
    return str(scheduler.on_trial_result(SimpleNamespace(get_live_trials=list), trial, {EPOCHS: epoch, METRIC: loss}))


@pytest.mark.parametrize("kind", ["asha", "median"])
@pytest.mark.parametrize(("loss", "expected"), [(0.9, "STOP"), (0.1, "CONTINUE")])
def test_a_new_trial_is_measured_by_those_before(kind: str, loss: float, expected: str, went_on: Make) -> None:
    # The second would be stopped as soon as it is told, and yet all of its epochs count.
    scheduler, _ = went_on(kind, one=[0.5, 0.4, 0.3], two=[0.8, 0.8, 0.8], three=[0.4, 0.3, 0.2])
    new = _Tried("new")
    scheduler.on_trial_add(None, new)
    assert _answer(scheduler, new, 1, loss) == expected


@pytest.mark.parametrize("kind", ["asha", "median", "none"])
def test_a_trial_that_goes_on_keeps_its_place(kind: str, went_on: Make) -> None:
    scheduler, state = went_on(kind, one=[0.5, 0.4], two=[0.4, 0.3], three=[0.3, 0.2], cut_short=[0.6, 0.1])
    again = _Tried("again")
    replay(scheduler, state, state.trials["cut_short"], LOSS, seen_as=again)
    scheduler.on_trial_add(None, again)
    assert _answer(scheduler, again, 3, 0.1) == "CONTINUE"
    if kind == "asha":  # its first epoch is on the first rung as it was, not as the third one is
        *_, (milestone, recorded) = scheduler._brackets[0]._rungs
        assert (milestone, recorded["again"]) == (1, -0.6)


class _Tried:
    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id
