"""What a sweep leaves: `best.yaml`, a spec that trains as it is, `report.html`, and the table on the terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from changenet import storage
from changenet.errors import CheckpointError
from changenet.evaluation.objective import FULL_RECALL, Objective
from changenet.evaluation.report.sweep import write_sweep_report
from changenet.evaluation.report.sweep_plots import Axis, curves_plot, importance_plot, parallel_plot
from changenet.spec import load_spec
from changenet.spec.loading import SECRET, Reading, apply_overrides, read_tree
from changenet.spec.rendering import lines
from changenet.spec.sweep import Sweep
from changenet.spec.tree import Path, get, parse_path, put, remove
from ray_jobs.action import Action
from ray_jobs.console import figure, out
from ray_jobs.tune_state import SweepState, Trial, setting

logger = logging.getLogger(__name__)

BEST = "best.yaml"
LABEL = "false calls at full recall, ties by AUROC, then loss"


def best_trial(state: SweepState, objective: Objective) -> Trial | None:
    """Return the trial with the best objective, or None when there is none."""
    best: Trial | None = None
    for trial in state.trials.values():
        better = trial.objective is not None and objective.is_better(trial.objective, best.objective if best else None)
        best = trial if better else best
    return best


def write_results(
    action: Action, sweep: Sweep, state: SweepState, objective: Objective, *, spec: str, overrides: Sequence[str]
) -> None:
    """Write `best.yaml` and `report.html`, and print the table of trials."""
    from ray_jobs.sweep_monitor import trial_table

    state.save()
    best = best_trial(state, objective)
    ranked = _ranked(state, objective)
    out.print(trial_table(ranked, title="Trials, the best first", num_epochs=action.experiment.train.num_epochs))
    if best is None:
        return
    storage.write_text(action.path(BEST), _best_spec(action, best, spec=spec, overrides=overrides))
    if not storage.is_uri(action.folder):
        load_spec(action.path(BEST))
    report = _write_report(action, sweep, state, objective, ranked, spec=spec)
    action.status.write("RUNNING", f"Best trial {best.name}.", kpi={"objective": best.objective})
    out.print(f"Best: trial {best.name}, {state.checkpoint(best)}", soft_wrap=True)
    out.print(f"Spec to train it: {action.path(BEST)}", soft_wrap=True)
    out.print(f"Report: {report}", soft_wrap=True)


def _ranked(state: SweepState, objective: Objective) -> list[Trial]:
    sign = 1 if objective.mode == "min" else -1
    measured = [trial for trial in state.trials.values() if trial.objective is not None]
    measured.sort(key=lambda trial: sign * (trial.objective or 0.0))
    return measured + [trial for trial in state.trials.values() if trial.objective is None]


def _best_spec(action: Action, best: Trial, *, spec: str, overrides: Sequence[str]) -> str:
    """Return the user's spec, as it is written, with the values of a trial and its threshold."""
    reading = Reading(spec)
    tree = read_tree(reading)
    apply_overrides(reading, tree, overrides)
    comments: dict[Path, list[str]] = {}
    for key, value in best.values.items():
        put(tree, parse_path(key), value)
        comments[parse_path(key)] = [f"found by trial {best.name}"]
    for key in ("evaluate.threshold.policy", "evaluate.threshold.target", "train.results_dir"):
        _drop(tree, parse_path(key))
    threshold = best.best.get("threshold")
    if threshold is not None:
        path = parse_path("model.classify.eval_margin")
        put(tree, path, max(0.0, threshold))
        fitted = f"fitted on validation scores of trial {best.name}; without this key each training fits its own"
        comments[path] = [fitted]
    put(tree, ("results_dir",), storage.join(action.folder, "best"))
    comments[("results_dir",)] = ["a folder of its own, so that no earlier run is in the way"]
    if isinstance(secret := tree.get(SECRET), str) and "${" not in secret:
        del tree[SECRET]
    head = f"# {spec} with what changenet tune found. The network itself: {best.best.get('checkpoint')} of trial {best.name}."
    return "\n".join([head, *lines(tree, lambda path: comments.get(path, []), above=True)]) + "\n"


def _drop(tree: dict[str, Any], path: Path) -> None:
    if get(tree, path, tree) is tree:
        return
    remove(tree, path)
    while len(path) > 1 and get(tree, path := path[:-1]) == {}:
        remove(tree, path)


def _write_report(
    action: Action, sweep: Sweep, state: SweepState, objective: Objective, ranked: Sequence[Trial], *, spec: str
) -> str:
    from ray_jobs.tune_search import importance, learning_curve

    best, measured = ranked[0], [trial for trial in ranked if trial.objective is not None]
    label = LABEL if objective.name == FULL_RECALL else objective.name
    points = [{key: trial.point[key] for key in trial.values} for trial in measured]
    curves = {trial.name: list(learning_curve(state, trial, objective)) for trial in ranked}
    plots = {
        "parallel": parallel_plot(
            _axes(sweep), points, [trial.objective or 0.0 for trial in measured], mode=objective.mode
        ),
        "importance": importance_plot(importance(sweep, state, objective.mode)),
        "curves": curves_plot(curves, best=best.name, label=label, mode=objective.mode),
    }
    statuses = [trial.status for trial in ranked]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    values = ", ".join(f"{key} = {setting(value)}" for key, value in best.values.items())
    columns = ("trial", "status", "epochs", *sweep.dimensions, "objective", "AUROC", "loss", "threshold", "seconds")
    settings = sweep.settings
    return write_sweep_report(
        action.folder,
        title=f"Sweep of {spec}",
        summary=f"{len(ranked)} trials ({counts}). Best: trial {best.name} with {values}.",
        plots=plots,
        columns=columns,
        trials=[_row(trial, sweep) for trial in ranked],
        best=best.name,
        figures=_figures(action, state, best),
        provenance={
            "Spec": spec,
            "Sweep": f"{sweep.path}: {settings.algorithm}, scheduler {settings.scheduler}, seed {settings.seed}",
            "Objective": f"{label}, {'less' if objective.mode == 'min' else 'more'} is better",
            "Best checkpoint": state.checkpoint(best) or "none",
            "Written": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        },
    )


def _figures(action: Action, state: SweepState, best: Trial) -> dict[str, Any] | None:
    """Return the validation metrics that the best checkpoint carries."""
    from changenet.training.checkpoint import load_checkpoint

    path = state.checkpoint(best)
    try:
        return load_checkpoint(path, encryption_key=action.experiment.secret()).description.metrics if path else None
    except CheckpointError as error:  # somebody tidied up
        logger.warning("%s", error)
        return None


def _axes(sweep: Sweep) -> list[Axis]:
    axes = []
    for key, dimension in sweep.dimensions.items():
        if dimension.listed:
            names = tuple(setting(option) for option in dimension.options)
            axes.append(Axis(key, 0, len(names) - 1, names=names))
        else:
            low, high = dimension.options
            axes.append(Axis(key, low, high, log=dimension.kind == "loguniform"))
    return axes


def _row(trial: Trial, sweep: Sweep) -> list[str]:
    figures = (trial.objective, *(trial.best.get(name) for name in ("val_auroc", "val_loss", "threshold")))
    return [
        *(trial.name, trial.status, str(trial.epochs)),
        *(setting(trial.values[key]) if key in trial.values else "" for key in sweep.dimensions),
        *(figure(value) for value in figures),
        f"{trial.seconds:.0f}",
    ]
