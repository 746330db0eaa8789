"""`changenet tune`: the driver of a sweep with Ray Tune. Each trial is a Ray Train run (`ray_jobs.trial`)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from changenet import storage
from changenet.errors import DataError, SpecError
from changenet.evaluation.objective import FULL_RECALL, Objective
from changenet.spec import Experiment
from changenet.spec.experiment import LARGER_IS_BETTER
from changenet.spec.sweep import Sweep, load_sweep
from changenet.spec.sweep_file import DEFAULT_TRIALS
from ray_jobs import cluster
from ray_jobs.action import Action
from ray_jobs.shared_storage import check_shared, mark
from ray_jobs.train import with_seed
from ray_jobs.train_run import check_share, prepare
from ray_jobs.tune_results import best_trial, write_results
from ray_jobs.tune_state import SweepState
from ray_jobs.workers import plan_trials

logger = logging.getLogger(__name__)

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # each trial has its own metrics.csv and TensorBoard events
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails has no figure
}


def run(
    spec: str, sweep_file: str, overrides: Sequence[str] = (), *, address: str | None = None, fresh: bool = False
) -> int:
    """Search the sweep's space, going on where an earlier run of the same sweep stopped; `fresh` sets that one aside.

    Raises:
        SpecError: The sweep, or its spec, is wrong; or the folder holds another sweep.
        DataError: The training or validation set is wrong; or no trial succeeded, after everything was written.
        CheckpointError: Weights to start from do not fit.
    """
    sweep, loaded = load_sweep(sweep_file, spec, overrides)
    for warning in loaded.warnings:
        logger.warning("%s", warning)
    with Action("tune", loaded.experiment, fresh=fresh) as action:
        experiment = with_seed(loaded.experiment)
        state = SweepState.load(action.folder, {**sweep.shape, "spec": _shape(loaded.experiment, sweep)})
        prepare(experiment, action.folder)
        objective = _objective(experiment, sweep)
        grid = sweep.grid(experiment) if sweep.settings.algorithm == "grid" else None
        total = max(len(grid) if grid else sweep.settings.trials or DEFAULT_TRIALS, len(state.over))
        if len(state.over) < total:
            _search(
                action, experiment, sweep, state, objective, points=_points(state, grid), total=total, address=address
            )
        else:
            logger.warning("All %d trials are over: nothing to do. Raise trials, or start anew with --fresh.", total)
        write_results(action, sweep, state, objective, spec=spec, overrides=overrides)
        if best_trial(state, objective) is None:
            failed = (f"trial {trial.name}: {trial.error}" for trial in state.trials.values() if trial.error)
            raise DataError(next(failed, "no trial gave a figure to compare"), where=action.folder)
    return 0


def _search(
    action: Action,
    experiment: Experiment,
    sweep: Sweep,
    state: SweepState,
    objective: Objective,
    *,
    points: list[dict[str, Any]],
    total: int,
    address: str | None,
) -> None:
    """Run the trials that are left.

    Raises:
        KeyboardInterrupt: It was interrupted.
        SpecError: A batch cannot be shared by the workers of a trial.
    """
    os.environ.update(ENVIRONMENT)
    cluster.connect(address)
    check_shared(experiment, ("train", "validation"), read={}, written={"results_dir": action.folder})
    from ray import tune
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    from ray_jobs.run_monitor import start_monitor
    from ray_jobs.sweep_monitor import SweepMonitor
    from ray_jobs.trial import TrialRun, TrialSetup
    from ray_jobs.tune_search import make_scheduler, make_search, replay

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what happens to trials, we say
    settings, left = experiment.train, total - len(state.over)
    workers, at_once = plan_trials(
        settings.ray,
        asked_gpus=experiment.num_gpus("train") * settings.num_nodes,
        trials=left,
        limit=sweep.settings.max_concurrent_trials,
    )
    check_share(experiment, workers)
    logger.info(
        "%d trials, %d at once, each with %d worker(s) of %g CPUs.", left, at_once, workers.count[1], workers.cpus
    )
    # Ray Train starts it where its first trial is driven and never ends it: that machine would not be idle again.
    get_or_create_autoscaling_coordinator()
    monitor = start_monitor()
    run_name, trials = time.strftime("%Y%m%d-%H%M%S"), storage.absolute(action.path("trials"))
    mark(trials, run_name)
    setup = TrialSetup(
        experiment=experiment,
        sweep=sweep,
        folder=trials,
        run=run_name,
        objective=objective,
        workers=workers,
        monitor=monitor,
        working_dir=str(Path.cwd()),
    )
    longest = sweep.dimensions.get("train.num_epochs")
    most_epochs = max(longest.options) if longest else settings.num_epochs
    search = make_search(sweep, state, points, objective.mode)
    scheduler = make_scheduler(
        sweep, state, objective=objective, num_epochs=settings.num_epochs, most_epochs=most_epochs
    )
    open_spec = experiment.model_copy(update={"encryption_key": None})  # Ray Tune writes down what it calls

    def name(trial: Any) -> str:
        mine = state.begin(trial.config, sweep.values(open_spec, trial.config))
        replay(scheduler, state, mine, objective, seen_as=trial)
        return mine.name

    with SweepMonitor(state, total=total, num_epochs=settings.num_epochs, monitor=monitor) as progress:
        tuner = tune.Tuner(
            # The workers of a trial take the CPUs; what drives it waits for them. Ray Tune refuses to ask for nothing at
            # all, so it asks for one byte of memory.
            tune.with_resources(tune.with_parameters(TrialRun, setup=setup), {"CPU": 0, "memory": 1}),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=scheduler,
                num_samples=left,
                max_concurrent_trials=at_once,
                trial_name_creator=name,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=run_name,
                storage_path=settings.ray.storage_path or storage.absolute(action.path(".ray")),
                failure_config=tune.FailureConfig(max_failures=settings.ray.max_failures),
                callbacks=[progress],
                verbose=0,
            ),
        )
        tuner.fit()
    if any(trial.status == "running" for trial in state.trials.values()):  # Ray Tune catches the signal and returns
        raise KeyboardInterrupt


def _points(state: SweepState, grid: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Return the points to try first: those that were cut short, and of a grid those that nobody has tried."""
    points = [trial.point for trial in state.unfinished]
    tried = [trial.point for trial in state.trials.values()]
    return points + [point for point in grid or () if point not in tried]


def _objective(experiment: Experiment, sweep: Sweep) -> Objective:
    """Return what is better, once it is sure that validation measures it."""
    from changenet import factory

    name = sweep.settings.objective
    larger = name.endswith(LARGER_IS_BETTER)
    if name.startswith("train_"):
        return Objective(name=name, mode="max" if larger else "min", passes=0, defects=0)
    if not experiment.dataset.classify.validation_dataset.csv_path:
        fix = "Name it: trials are compared on it."
        raise SpecError("not given", where="dataset.classify.validation_dataset.csv_path", fix=fix)
    annotations = factory.pair_source(experiment, "validation", factory.picture_layout(experiment)).annotations
    defects = int(annotations.is_defect.sum())
    passes = len(annotations) - defects
    if name == FULL_RECALL and not (defects and passes):
        what = f"has {passes} PASS pairs and {defects} defects: there is no {name} to compare"
        raise DataError(what, where=annotations.path, fix="It needs both; or set another objective.")
    return Objective(name=name, mode="max" if larger else "min", passes=passes, defects=defects)


def _shape(experiment: Experiment, sweep: Sweep) -> Mapping[str, Any]:
    """Return what the spec says about network, data and training: what a sweep's trials have in common."""
    from changenet.spec.tree import leaves, show_path

    public = experiment.public()
    kept = {name: public[name] for name in ("model", "dataset", "train")} | {
        "threshold": public["evaluate"]["threshold"]
    }
    place = (
        "train.ray",
        "train.results_dir",
        "train.tensorboard",
        "train.num_gpus",
        "train.gpu_ids",
        "train.num_nodes",
    )
    flat = {show_path(path): value for path, value in leaves(kept)}
    ignored = (*place, "dataset.classify.workers", *sweep.dimensions)
    return {key: value for key, value in flat.items() if not any(f"{key}.".startswith(f"{each}.") for each in ignored)}
