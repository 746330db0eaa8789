"""How a sweep chooses values and stops trials: Ray Tune's schedulers, and Optuna through Ray Tune's search."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from changenet.evaluation.objective import Objective
from changenet.spec.dimension import Dimension
from changenet.spec.sweep import Sweep
from ray_jobs.curve import EPOCHS, METRIC
from ray_jobs.metrics_csv import read_epochs
from ray_jobs.tune_state import SweepState, Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)  # what happens to trials, we say
REDUCTION = 3  # of the trials that reach a rung of ASHA, one in three goes on
FEWEST = 4  # trials that importance is said of


def distributions(sweep: Sweep) -> dict[str, BaseDistribution]:
    """Return where Optuna searches each key; from a list it chooses by number, as it knows no lists or mappings."""
    return {key: _distribution(dimension) for key, dimension in sweep.dimensions.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.listed:
        return CategoricalDistribution(range(len(dimension.options)))
    low, high = dimension.options
    if dimension.kind == "int":
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=dimension.kind == "loguniform")


def make_search(sweep: Sweep, state: SweepState, points: list[dict[str, Any]], mode: str) -> OptunaSearch:
    """Return the search, which knows the trials that are over.

    Args:
        sweep: The sweep.
        state: Its trials so far.
        points: To try first: those that were cut short; of a grid, all that are left.
        mode: Which way the objective is better.
    """
    seed = sweep.settings.seed + len(state.trials)  # a sweep that goes on must not draw its first points again
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
    if sweep.settings.algorithm == "tpe":
        sampler = optuna.samplers.TPESampler(seed=seed)
    space = distributions(sweep)
    search = OptunaSearch(space=space, metric=METRIC, mode=mode, points_to_evaluate=points, sampler=sampler)
    for trial in state.over:
        search.add_evaluated_point(trial.point, trial.objective, error=trial.objective is None)
    return search


def make_scheduler(
    sweep: Sweep, state: SweepState, *, objective: Objective, num_epochs: int, most_epochs: int
) -> TrialScheduler:
    """Return the scheduler, which knows how the trials that are over went.

    Args:
        sweep: The sweep.
        state: Its trials so far.
        objective: What is better.
        num_epochs: Of a trial.
        most_epochs: Of the longest trial.
    """
    common: dict[str, Any] = {"time_attr": EPOCHS, "metric": METRIC, "mode": objective.mode}
    grace = min(sweep.settings.grace_epochs, num_epochs)
    scheduler: TrialScheduler
    if sweep.settings.scheduler == "asha":
        # One more than there are: a trial that reaches its last epoch ends by itself, with everything written.
        scheduler = AsyncHyperBandScheduler(
            **common, grace_period=grace, max_t=most_epochs + 1, reduction_factor=REDUCTION
        )
    elif sweep.settings.scheduler == "median":
        # Without slices: a trial is never paused for another one to catch up.
        scheduler = MedianStoppingRule(**common, grace_period=grace, min_time_slice=float("inf"))
    else:
        return FIFOScheduler()
    for trial in state.over:
        replay(scheduler, state, trial, objective, seen_as=_Earlier(trial.name))
    return scheduler


def replay(scheduler: TrialScheduler, state: SweepState, trial: Trial, objective: Objective, *, seen_as: Any) -> None:
    """Tell a scheduler the epochs that a trial had before, so that others are measured by them.

    It only notes them, and decides nothing: a trial that was let through once is not stopped there when it goes on.

    Args:
        scheduler: Of Ray Tune.
        state: The sweep's trials.
        trial: One of them; a new one has no epochs.
        objective: What is better.
        seen_as: What the scheduler takes for the trial.
    """
    best: float | None = None
    for epoch, value in learning_curve(state, trial, objective):
        best = value if objective.is_better(value, best) else best
        scheduler.on_trial_add(None, seen_as)
        scheduler.on_trial_complete(None, seen_as, {EPOCHS: epoch, METRIC: best})


class _Earlier:
    """What a scheduler needs to know of a trial of an earlier run."""

    def __init__(self, name: str) -> None:
        self.trial_id = f"earlier_{name}"


def learning_curve(state: SweepState, trial: Trial, objective: Objective) -> Iterator[tuple[int, float]]:
    """Yield the epochs of a trial that were validated (from 1), each with its objective."""
    for figures in read_epochs(state.path(trial)):
        if (value := objective.value(figures)) is not None:
            yield int(figures["epoch"]) + 1, value


def importance(sweep: Sweep, state: SweepState, mode: str) -> dict[str, float]:
    """Return the share of each key in what tells the best trials from the rest (PED-ANOVA), the largest first.

    Watanabe, Bansal, Hutter: PED-ANOVA, IJCAI 2023. Empty for fewer than four trials with an objective.
    """
    study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
    space = distributions(sweep)
    measured = [trial for trial in state.over if trial.objective is not None]
    for trial in measured:
        study.add_trial(optuna.trial.create_trial(value=trial.objective, params=trial.point, distributions=space))
    if len(measured) < FEWEST:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the evaluator is new
        return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))
