from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from changenet.errors import SpecError
from changenet.spec import load_spec
from changenet.spec.sweep import Sweep, load_sweep, with_values

SPECS = Path(__file__).parents[3] / "specs"
LR = "train.optim.lr"
MARGIN = "model.classify.train_margin_euclid"
MODULE = "model.classify.difference_module"
LEVELS = "model.classify.learnable_difference_modules"
Load = Callable[..., tuple[Sweep, Any]]


@pytest.fixture
def load(write_spec: Callable[..., str], tmp_path: Path) -> Load:
    """Loads a sweep over a spec; keyword arguments are keys of the sweep."""

    def write(space: Any, *overrides: str, **keys: Any) -> tuple[Sweep, Any]:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({"space": space, **keys}), encoding="utf-8")
        return load_sweep(path, write_spec(), overrides)

    return write


def problems(load: Load, space: Any, *overrides: str, **keys: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(space, *overrides, **keys)
    return [str(problem) for problem in caught.value.problems]


def test_the_sweep_to_copy_fits_the_recommended_recipe() -> None:
    sweep, loaded = load_sweep(SPECS / "sweep.yaml", SPECS / "light.yaml")
    assert LR in sweep.dimensions
    assert loaded.warnings == ()


def test_every_problem_of_sweep_space_and_spec_is_found_at_once(load: Load) -> None:
    space = {
        "train.opim.lr": {"uniform": [0, 1]},
        "train.optim.weight_decay": {"uniform": [-1, 2]},
        MODULE: {"choice": ["learnable", "siamese"]},
        LEVELS: {"int": [1, 5]},
        "train.num_epochs": {"uniform": [1, 5]},
        "train.optim.momentum": {"loguniform": [0, 0.5]},
        "train.optim.policy": ["step"],
        "export.opset_version": {"int": [17, 18]},
        "dataset.classify.validation_dataset.csv_path": {"choice": ["other.csv"]},
        LR: {"uniform": [0.2, 0.1]},
    }
    lines = problems(load, space, trails=5, algorithm="best")
    expected = {
        "trails: is not a key of a sweep. Did you mean trials?",
        "algorithm: is 'best'. Allowed: tpe, random or grid.",
        "space.train.opim.lr: is not a key of the spec. Did you mean train.optim.lr?",
        "space.train.optim.weight_decay: is -1.0. Allowed: number, 0 or more.",
        f"space.{MODULE}: is 'siamese'. Allowed: learnable or euclidean.",
        f"space.{LEVELS}: is 5. Allowed: whole number, 1 to 4.",
        "space.train.num_epochs: is 2.273239544735163. Allowed: whole number, 1 or more.",
        "space.train.optim.momentum: loguniform begins at 0: a number above 0 is needed",
        "space.train.optim.policy: is ['step']. Allowed: one of",
        "space.export.opset_version: cannot be searched: it changes nothing in training.",
        "space.dataset.classify.validation_dataset.csv_path: cannot be searched: trials that are validated on other rows",
        f"space.{LR}: uniform is [0.2, 0.1]: two numbers are needed, the lower one first",
    }
    for start in expected:
        assert any(f"sweep.yaml: {start}" in line for line in lines), start


@pytest.mark.parametrize(
    ("key", "there"), [("scheduler", "asha, median or none"), ("algorithm", "tpe, random or grid")]
)
def test_population_based_training_is_refused_with_what_is_there(load: Load, key: str, there: str) -> None:
    (line,) = problems(load, {LR: {"uniform": [0.1, 0.2]}}, **{key: "pbt"})
    assert "pbt is not there: its winner is a schedule" in line
    assert line.endswith(f"Allowed: {there}.")


def test_the_threshold_needs_no_trials(load: Load) -> None:
    (line,) = problems(load, {"model.classify.eval_margin": {"uniform": [0.1, 0.9]}})
    assert "needs no trials" in line


@pytest.mark.parametrize("key", ["trials", "grace_epochs", "max_concurrent_trials"])
def test_counts_are_at_least_one(load: Load, key: str) -> None:
    (line,) = problems(load, {LR: {"uniform": [0.1, 0.2]}}, **{key: 0})
    assert f"sweep.yaml: {key}: is 0" in line


def test_a_key_that_others_follow_by_interpolation_is_refused(load: Load) -> None:
    follows = "train.clip_grad_norm=${train.optim.lr}"
    (line,) = problems(load, {LR: {"uniform": [0.1, 0.2]}}, follows)
    assert "train.clip_grad_norm follow it by interpolation" in line


def test_old_spellings_are_searched_by_their_modern_name(load: Load) -> None:
    sweep, _ = load({"model.classify.diff_module": {"choice": ["euclidean"]}})
    assert list(sweep.dimensions) == [MODULE]


def test_a_key_without_effect_in_any_trial_is_one_warning(load: Load) -> None:
    _, loaded = load({MARGIN: {"uniform": [1, 2]}})
    assert [line for line in loaded.warnings if "has no effect in any trial" in line]
    _, loaded = load({MARGIN: {"uniform": [1, 2]}, MODULE: {"choice": ["learnable", "euclidean"]}})
    assert not [line for line in loaded.warnings if "has no effect in any trial" in line]


def test_values_without_effect_are_left_out_and_a_grid_tries_no_network_twice(load: Load) -> None:
    space = {
        MODULE: {"grid": ["learnable", "euclidean"]},
        MARGIN: {"grid": [1.0, 2.0, 3.0]},
        LEVELS: {"choice": [1, 4]},
    }
    sweep, loaded = load(space, algorithm="grid")
    values = [sweep.values(loaded.experiment, point) for point in sweep.grid(loaded.experiment)]
    assert values == [
        {MODULE: "learnable", LEVELS: 1},
        {MODULE: "learnable", LEVELS: 4},
        *({MODULE: "euclidean", MARGIN: margin} for margin in (1.0, 2.0, 3.0)),
    ]


def test_a_grid_needs_lists_and_only_a_grid_has_grids(load: Load) -> None:
    lines = problems(load, {LR: {"uniform": [0.1, 0.2]}}, algorithm="grid", trials=3)
    assert any("needs grid or choice" in line for line in lines)
    assert any("trials: algorithm grid tries every combination" in line for line in lines)
    (line,) = problems(load, {LR: {"grid": [0.1, 0.2]}})
    assert "Write choice, or algorithm: grid." in line


def test_a_spec_with_other_values_is_the_one_that_overrides_give(write_spec: Callable[..., str]) -> None:
    spec = write_spec()
    expected = load_spec(spec, [f"{LR}=0.25", f"{MODULE}=euclidean"]).experiment
    found = with_values(load_spec(spec).experiment, {LR: 0.25, MODULE: "euclidean"})
    assert found.model_dump() == expected.model_dump()
    assert found.loss == expected.loss == "contrastive", "what was not written follows"


def test_values_that_do_not_fit_together_are_refused(write_spec: Callable[..., str]) -> None:
    experiment = load_spec(write_spec(train__classify__loss="ce")).experiment
    with pytest.raises(SpecError, match="loss"):
        with_values(experiment, {MODULE: "euclidean"})


def test_the_shipped_sweep_fits_the_recommended_spec() -> None:
    specs = Path(__file__).parents[3] / "specs"
    sweep, loaded = load_sweep(specs / "sweep.yaml", specs / "light.yaml")
    assert set(sweep.dimensions) == {LR, MODULE, MARGIN, LEVELS, "dataset.classify.fpratio_sampling"}
    assert not loaded.warnings
