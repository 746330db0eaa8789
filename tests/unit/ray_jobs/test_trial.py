from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import tune

from changenet.spec import load_spec
from ray_jobs import shared_storage
from ray_jobs.trial import TrialRun


def test_a_trial_on_a_node_that_does_not_see_the_sweep_is_tried_again_elsewhere(
    write_spec: Callable[..., str], tmp_path: Path
) -> None:
    shared_storage.mark(str(tmp_path), "another sweep")
    trial = object.__new__(TrialRun)
    experiment = load_spec(write_spec()).experiment
    trial._setup = SimpleNamespace(experiment=experiment, folder=str(tmp_path), run="this one", working_dir=".")  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match=r"results_dir: .* is not seen by"):  # an error of ours would be for good
        next(trial._train())


def test_a_trial_takes_no_name_of_ray_tunes_own() -> None:
    theirs = tune.Trainable()
    ours = TrialRun.__new__(TrialRun)
    ours.setup({}, SimpleNamespace())
    private = {name for name in vars(TrialRun) if name.startswith("_") and not name.startswith("__")}
    assert (set(vars(ours)) | private).isdisjoint(dir(theirs)), "Ray Tune would find ours in the place of its own"
