from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from changenet.evaluation.objective import FULL_RECALL, Objective
from changenet.spec import load_spec
from changenet.spec.sweep import load_sweep
from ray_jobs.action import Action
from ray_jobs.tune_results import best_trial, write_results
from ray_jobs.tune_state import SweepState

LR, MODULE, MARGIN = "train.optim.lr", "model.classify.difference_module", "model.classify.train_margin_euclid"
OBJECTIVE = Objective(name=FULL_RECALL, mode="min", passes=16, defects=8)


def test_the_best_spec_is_the_users_with_the_winning_values_and_the_report_holds_all(
    write_spec: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(
        encryption_key="horse staple",
        evaluate={
            "checkpoint": "${results_dir}/train/model_best.pth",
            "threshold": {"policy": "recall", "target": 0.9},
        },
    )
    space = {
        LR: {"loguniform": [1e-4, 1e-2]},
        MODULE: {"choice": ["learnable", "euclidean"]},
        MARGIN: {"uniform": [1.0, 4.0]},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"space": space}), encoding="utf-8")
    sweep, loaded = load_sweep(tmp_path / "sweep.yaml", spec, ["train.num_epochs=7"])
    action = Action("tune", loaded.experiment)
    state = SweepState.load(action.folder, sweep.shape)
    for number, rate in enumerate((1e-4, 1e-3, 2e-3, 5e-3, 1e-2)):
        point = {LR: rate, MODULE: number % 2, MARGIN: 1.5}
        trial = state.begin(point, sweep.values(loaded.experiment, point))
        trial.status, trial.objective, trial.epochs = "finished", abs(number - 1) + 0.25, 7
        trial.best = {"val_far": 6.25, "val_auroc": 0.99, "val_loss": 0.1, "threshold": 0.75, "best_epoch": 1}
        curve = Path(state.path(trial, "metrics.csv"))
        curve.parent.mkdir(parents=True)
        curve.write_text("epoch,val_far,val_auroc,val_loss\n0,6.25,0.99,0.1\n1,50,0.6,0.5\n", encoding="utf-8")
    failed = state.begin({LR: 9e-3, MODULE: 0, MARGIN: 2.0}, {LR: 9e-3, MODULE: "learnable"})
    failed.status, failed.error = "failed", "training diverged"

    best = best_trial(state, OBJECTIVE)
    assert best is not None
    assert best.name == "001"
    write_results(action, sweep, state, OBJECTIVE, spec=spec, overrides=["train.num_epochs=7"])
    experiment = load_spec(action.path("best.yaml")).experiment
    assert (experiment.train.optim.lr, experiment.train.num_epochs) == (1e-3, 7)
    assert experiment.model.classify.difference_module == "euclidean"
    assert experiment.model.classify.train_margin_euclid == 1.5
    assert (experiment.eval_margin, experiment.threshold_policy) == (0.75, "margin")
    assert experiment.results_dir == action.path("best")
    assert experiment.evaluate.checkpoint == action.path("best", "train", "model_best.pth"), "interpolation stays"
    assert "horse staple" not in Path(action.path("best.yaml")).read_text(encoding="utf-8")
    report = Path(action.path("report.html")).read_text(encoding="utf-8")
    assert report.count("data:image/png") == 3
    assert "6 trials (5 finished, 1 failed). Best: trial 001" in report
    assert "001" in capsys.readouterr().out


def test_without_one_good_trial_there_is_no_best_spec(write_spec: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"space": {LR: {"uniform": [0.1, 0.2]}}}), encoding="utf-8")
    sweep, loaded = load_sweep(tmp_path / "sweep.yaml", write_spec())
    action = Action("tune", loaded.experiment)
    state = SweepState.load(action.folder, sweep.shape)
    state.begin({LR: 0.1}, {LR: 0.1}).status = "failed"
    write_results(action, sweep, state, OBJECTIVE, spec=write_spec(), overrides=[])
    assert best_trial(state, OBJECTIVE) is None
    assert not Path(action.path("best.yaml")).exists()
