from __future__ import annotations

import csv
from pathlib import Path

import pytest

from changenet.errors import SpecError
from ray_jobs.tune_state import SweepState

SHAPE = {"algorithm": "tpe", "seed": 0, "space": {"train.optim.lr": {"uniform": [0.1, 0.2]}}, "spec": {"model.x": 1}}


def test_a_trial_that_was_cut_short_is_taken_up_again_and_one_that_is_over_is_not(tmp_path: Path) -> None:
    state = SweepState.load(str(tmp_path), SHAPE)
    for rate in (0.1, 0.15, 0.2):
        state.begin({"train.optim.lr": rate}, {"train.optim.lr": rate})
    state.trials["000"].status = "finished"
    state.trials["001"].status = "crashed"
    state.save()
    again = SweepState.load(str(tmp_path), SHAPE)
    assert [trial.name for trial in again.over] == ["000"]
    assert [trial.name for trial in again.unfinished] == ["001", "002"]
    assert again.begin({"train.optim.lr": 0.2}, {}).name == "002"
    assert again.begin({"train.optim.lr": 0.1}, {}).name == "003", "a point that was tried is a new trial"


def test_another_sweep_cannot_go_on_in_the_folder(tmp_path: Path) -> None:
    SweepState.load(str(tmp_path), SHAPE).save()
    with pytest.raises(SpecError) as caught:
        SweepState.load(str(tmp_path), {**SHAPE, "seed": 1, "spec": {"model.x": 2}})
    assert [problem.what for problem in caught.value.problems[1:]] == [
        "seed was 0 and is 1",
        "spec.model.x was 1 and is 2",
    ]


def test_trials_csv_has_a_line_a_trial_with_blanks_for_what_is_not_known(tmp_path: Path) -> None:
    state = SweepState.load(str(tmp_path), SHAPE)
    trial = state.begin({"train.optim.lr": 0.1}, {"train.optim.lr": 0.1})
    trial.objective, trial.best = 2.5, {"val_far": 25.0, "val_auroc": 0.9, "best_epoch": 3, "checkpoint": "a.pth"}
    state.begin({"train.optim.lr": 0.2}, {})
    state.save()
    with (tmp_path / "trials.csv").open(encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert first["false_call_rate_at_full_recall"] == "0.25"
    assert first["checkpoint"] == str(tmp_path / "trials" / "000" / "train" / "a.pth")
    assert (first["train.optim.lr"], second["train.optim.lr"]) == ("0.1", "")
    assert (second["objective"], second["checkpoint"]) == ("", "")
