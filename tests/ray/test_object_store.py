"""Results behind `s3://`: a run goes on there, and what it leaves is scored, exported and searched there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import changenet
from changenet import storage
from ray_jobs import evaluate, export, inference, train, tune

Spec = Callable[..., str]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module", autouse=True)
def boards(bucket: str) -> str:
    """The bucket, made before Ray starts, so that every worker reaches it."""
    return bucket


def test_a_run_writes_there_goes_on_there_and_what_it_leaves_is_used_there(
    write_spec: Spec, pair_folder: Path, boards: str
) -> None:
    results = f"{boards}/results"
    train.run(write_spec(results_dir=results, train__num_epochs=1))
    train.run(write_spec(results_dir=results, train__num_epochs=2))
    folder = storage.join(results, "train")
    names = storage.names_inside(folder)
    assert {"model_best.pth", "model_epoch_000_step_00003.pth", "model_epoch_001_step_00006.pth"} <= set(names)
    epochs = [row["epoch"] for row in csv.DictReader(io.StringIO(storage.read_text(f"{folder}/metrics.csv")))]
    assert epochs == ["0", "1"], "the second run went on where the first ended"
    events = [json.loads(line) for line in storage.read_text(f"{folder}/status.json").splitlines()]
    assert [event["status"] for event in events].count("SUCCESS") == 2
    latest = storage.resolve_latest(storage.join(folder, "changenet_model_classify_latest.pth"))
    assert latest == f"{folder}/model_epoch_001_step_00006.pth"

    best = f"{folder}/model_best.pth"
    spec = write_spec(
        results_dir=results, evaluate__checkpoint=best, inference__checkpoint=best, export__checkpoint=best
    )
    assert evaluate.run(spec) == inference.run(spec) == export.run(spec) == 0
    metrics = json.loads(storage.read_text(f"{results}/evaluate/metrics.json"))
    assert metrics["pairs"] == 24
    rows = list(csv.DictReader(io.StringIO(storage.read_text(f"{results}/inference/inference.csv"))))
    picture = pair_folder / "images" / "test" / f"{rows[2]['object_name']}.png"
    golden = pair_folder / "images" / "golden" / f"{rows[2]['object_name']}.png"
    verdict = changenet.load(f"{results}/export/bundle").inspect(picture, golden)
    assert verdict.score == pytest.approx(float(rows[2]["siamese_score"]), abs=1e-4)


def test_a_sweep_keeps_its_trials_there(write_spec: Spec, tmp_path: Path, boards: str) -> None:
    spec = write_spec(results_dir=f"{boards}/sweep", train__num_epochs=1)
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump({"algorithm": "grid", "space": {"train.optim.lr": {"grid": [0.001, 0.01]}}}))
    assert tune.run(spec, str(sweep)) == 0
    folder = f"{boards}/sweep/tune"
    trials = list(csv.DictReader(io.StringIO(storage.read_text(f"{folder}/trials.csv"))))
    assert len(trials) == 2
    assert yaml.safe_load(storage.read_text(f"{folder}/best.yaml"))["train"]["optim"]["lr"] in (0.001, 0.01)
