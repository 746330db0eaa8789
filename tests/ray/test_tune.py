from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from changenet.errors import DataError, SpecError
from changenet.spec import load_spec
from changenet.training.checkpoint import load_checkpoint
from ray_jobs import train, tune

Spec = Callable[..., str]
LR = "train.optim.lr"
MARGIN = "model.classify.train_margin_euclid"
MODULE = "model.classify.difference_module"
pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def write_sweep(tmp_path: Path) -> Callable[..., str]:
    """Writes a sweep of two trials; keyword arguments are its keys."""

    def write(**changes: Any) -> str:
        sweep = {"trials": 2, "space": {LR: {"loguniform": [1e-4, 1e-2]}}, "scheduler": "none", **changes}
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(sweep), encoding="utf-8")
        return str(path)

    return write


def _trials(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "results" / "tune" / "trials.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_sweep_writes_what_it_promises_and_its_best_spec_trains(
    write_spec: Spec, write_sweep: Callable[..., str], tmp_path: Path
) -> None:
    space = {
        LR: {"loguniform": [1e-4, 1e-2]},
        MODULE: {"choice": ["learnable", "euclidean"]},
        MARGIN: {"uniform": [1.0, 4.0]},
    }
    spec = write_spec(
        encryption_key="horse staple", dataset__classify__image_width=64, dataset__classify__image_height=64
    )
    assert tune.run(spec, write_sweep(space=space, trials=3, algorithm="random")) == 0
    folder = tmp_path / "results" / "tune"
    rows = _trials(tmp_path)
    assert [(row["status"], row["epochs"]) for row in rows] == [("finished", "2")] * 3
    assert all((row[MODULE] == "learnable") == (row[MARGIN] == "") for row in rows), "blank where it has no effect"
    for row in rows:
        description = load_checkpoint(row["checkpoint"], encryption_key="horse staple").description
        assert description.difference_module == row[MODULE]
        assert description.threshold.value == pytest.approx(float(row["threshold"]))
        assert description.metrics["auroc"] == pytest.approx(float(row["auroc"]))
        rate = description.metrics["false_call_rate_at_full_recall"]
        assert rate == pytest.approx(float(row["false_call_rate_at_full_recall"]))
        assert int(float(row["objective"])) == round(rate * description.metrics["passes"])
        files = list(Path(row["checkpoint"]).parent.glob("model_epoch_*.pth"))
        assert len(files) <= 2, "the best and the latest are kept"
    best = min(rows, key=lambda row: float(row["objective"]))
    found = load_spec(folder / "best.yaml").experiment
    assert found.train.optim.lr == float(best[LR])
    assert found.model.classify.difference_module == best[MODULE]
    assert found.model.classify.eval_margin == pytest.approx(float(best["threshold"]))
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert report.count("data:image/png") == 3
    assert 'src="http' not in report
    last = json.loads((folder / "status.json").read_text().splitlines()[-1])
    assert last["status"] == "SUCCESS"
    assert (folder / "experiment.yaml").exists()
    for path in (tmp_path / "results").rglob("*"):
        assert not path.is_file() or b"horse staple" not in path.read_bytes(), path
    assert train.run(str(folder / "best.yaml"), ["train.num_epochs=1", "encryption_key=horse staple"]) == 0
    assert tune.run(spec, write_sweep(space=space, trials=3, algorithm="random")) == 0, "nothing is left to do"
    with pytest.raises(SpecError, match=r"seed was 0 and is 5"):
        tune.run(spec, write_sweep(space=space, trials=3, algorithm="random", seed=5))


@pytest.mark.slow
def test_trials_that_fall_behind_are_stopped_and_those_that_diverge_do_not_end_the_sweep(
    write_spec: Spec, write_sweep: Callable[..., str], tmp_path: Path
) -> None:
    rates = [0.003, 0.0, 1e30]  # learns; learns nothing; diverges
    sweep = write_sweep(
        space={LR: {"grid": rates}}, algorithm="grid", trials=None, scheduler="asha", max_concurrent_trials=1
    )
    tune.run(write_spec(train__num_epochs=4, train__ray={"max_failures": 5}), sweep, ["train.optim.policy=linear"])
    rows = {float(row[LR]): row for row in _trials(tmp_path)}
    assert rows[0.003]["status"] == "finished"
    assert rows[0.003]["epochs"] == "4"
    assert rows[1e30]["status"] == "failed"
    assert "diverged" in rows[1e30]["error"]
    assert rows[0.0]["status"] == "stopped"
    assert int(rows[0.0]["epochs"]) < 4


@pytest.mark.slow
def test_a_sweep_without_one_good_trial_says_why(
    write_spec: Spec, write_sweep: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="diverged"):
        tune.run(write_spec(), write_sweep(space={LR: {"choice": [1e30]}}, trials=1))


@pytest.mark.slow
def test_a_sweep_that_was_interrupted_and_then_killed_goes_on(
    write_spec: Spec, write_sweep: Callable[..., str], tmp_path: Path, hears_ctrl_c: Callable[[], object]
) -> None:
    spec, folder = write_spec(train__num_epochs=15), tmp_path / "results" / "tune"
    sweep = write_sweep(trials=2, max_concurrent_trials=1)
    metrics = [folder / "trials" / name / "train" / "metrics.csv" for name in ("000", "001")]
    done: list[list[str]] = []
    for path, number, code in zip(metrics, (signal.SIGINT, signal.SIGKILL), (1, -signal.SIGKILL), strict=True):
        _stop_once_there(path, number, code, ["-e", spec, "-s", sweep], hears_ctrl_c)
        done.append(path.read_text().splitlines())
    first = metrics[0].read_bytes()
    assert tune.run(spec, sweep) == 0
    rows = _trials(tmp_path)
    assert [(row["name"], row["status"], row["epochs"]) for row in rows] == [
        ("000", "finished", "15"),
        ("001", "finished", "15"),
    ]
    for path, before in zip(metrics, done, strict=True):
        assert path.read_text().splitlines()[: len(before) - 1] == before[:-1], "epochs that were done stay"
    assert metrics[0].read_bytes() == first


def _stop_once_there(
    path: Path, number: signal.Signals, code: int, arguments: list[str], hears_ctrl_c: Callable[[], object]
) -> None:
    """Run a sweep, send it a signal as soon as a file exists, and check its exit code."""
    command = [sys.executable, "-m", "ray_jobs", "tune", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=hears_ctrl_c)
    try:
        deadline = time.monotonic() + 540  # other tests run beside this one
        while not path.exists():
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(timeout=300) == code
    finally:
        process.kill()  # or it goes on beside all other tests
