from __future__ import annotations

import csv
import json
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from tensorboardX.proto import event_pb2

from changenet import factory
from changenet.errors import CheckpointError, DataError, SpecError
from changenet.evaluation.thresholds import fit_threshold
from changenet.inspection import Inspector
from changenet.spec import load_spec
from changenet.spec.train import Monitor
from changenet.training.checkpoint import load_checkpoint
from ray_jobs import train
from ray_jobs.scorer import ModelFile
from ray_jobs.scoring import score_rows
from ray_jobs.workers import Workers

Spec = Callable[..., str]
pytestmark = pytest.mark.usefixtures("local_ray")


def _rows(results: Path) -> list[dict[str, str]]:
    with (results / "train" / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _tensorboard_tags(folder: Path) -> set[str]:
    """Read event files back: records of length (8 bytes), its checksum (4), an event, its checksum (4)."""
    tags = set()
    for file in folder.iterdir():
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
            tags |= {value.tag for value in event.summary.value}
            place += 16 + length
    return tags


def test_a_run_writes_what_it_promises(write_spec: Spec, tmp_path: Path, pair_folder: Path) -> None:
    spec = write_spec(encryption_key=None, model__classify__eval_margin=0.4)
    assert train.run(spec) == 0
    folder = tmp_path / "results" / "train"
    assert sorted(path.name for path in folder.glob("*.pth")) == [
        "changenet_model_classify_latest.pth",
        "model_best.pth",
        "model_epoch_000_step_00003.pth",
        "model_epoch_001_step_00006.pth",
    ]
    assert (folder / "changenet_model_classify_latest.pth").resolve().name == "model_epoch_001_step_00006.pth"
    assert [row["epoch"] for row in _rows(tmp_path / "results")] == ["0", "1"]
    rows = _rows(tmp_path / "results")
    assert float(rows[0]["learning_rate"]) == 0.003, "the rate that the epoch began with"
    assert set(get_args(Monitor)) <= set(rows[0])
    tags = _tensorboard_tags(folder / "tensorboard")
    assert {"train_loss", "val_auroc", "val_average_precision", "image/compare_sample", "image/golden_sample"} <= tags
    assert any(tag.startswith("histogram/") for tag in tags)
    assert yaml.safe_load((folder / "experiment.yaml").read_text())["train"]["num_epochs"] == 2
    events = [json.loads(line) for line in (folder / "status.json").read_text().splitlines()]
    messages = [event["message"] for event in events]
    assert messages[0] == "Starting Visual ChangeNet train."
    assert messages[1] == "Starting Training Loop."
    assert messages[-2:] == ["Training loop complete.", "Train finished successfully."]
    assert {"train_loss", "train_acc", "train_fpr"} <= set(events[2]["kpi"])
    assert {"val_loss", "val_acc", "val_fpr", "val_far"} <= set(events[3]["kpi"])
    assert events[-1]["status"] == "SUCCESS"

    description = load_checkpoint(str(folder / "model_best.pth")).description
    assert (description.threshold.policy, description.threshold.value) == ("margin", 0.4)
    picture = pair_folder / "images" / "test" / "val000.png"
    verdict = Inspector.load(str(folder / "model_best.pth")).inspect(picture, picture)
    assert 0 <= verdict.score <= 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_network(write_spec: Spec, tmp_path: Path) -> None:
    states = []
    for name in ("one", "two"):
        train.run(write_spec(results_dir=str(tmp_path / name), train__num_epochs=1))
        states.append(load_checkpoint(str(tmp_path / name / "train" / "changenet_model_classify_latest.pth")).state)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_a_rerun_after_a_lost_epoch_equals_the_run_that_lost_it(write_spec: Spec, tmp_path: Path) -> None:
    results = tmp_path / "results" / "train"
    spec = write_spec()
    train.run(spec)
    end = load_checkpoint(str(results / "model_epoch_001_step_00006.pth")).state
    (results / "model_epoch_001_step_00006.pth").unlink()
    latest = results / "changenet_model_classify_latest.pth"
    latest.unlink()
    latest.symlink_to("model_epoch_000_step_00003.pth")
    train.run(spec)
    again = load_checkpoint(str(results / "model_epoch_001_step_00006.pth")).state
    assert all(torch.equal(end[name], again[name]) for name in end)
    assert [row["epoch"] for row in _rows(tmp_path / "results")] == ["0", "1"]


def test_a_finished_folder_has_nothing_left_to_do_and_refuses_another_network(write_spec: Spec, tmp_path: Path) -> None:
    latest = tmp_path / "results" / "train" / "changenet_model_classify_latest.pth"
    train.run(write_spec(train__num_epochs=1))
    first = latest.read_bytes()
    train.run(write_spec(train__num_epochs=1))
    assert latest.read_bytes() == first
    with pytest.raises(CheckpointError, match="embed_dec is 30 in the checkpoint and 7 in the spec"):
        train.run(write_spec(train__num_epochs=2, model__classify__embed_dec=7))
    with pytest.raises(SpecError, match=r"train.pretrained_model_path: lies in .*, which --fresh sets aside"):
        train.run(write_spec(train__num_epochs=1, train__pretrained_model_path=str(latest)), fresh=True)
    train.run(write_spec(train__num_epochs=1, model__classify__embed_dec=7), fresh=True)
    assert load_checkpoint(str(latest)).description.network["embed_dec"] == 7
    (aside,) = (tmp_path / "results").glob("train-until-*")
    assert (aside / latest.name).read_bytes() == first


def test_two_workers_train_one_network_and_judge_the_one_that_is_written(write_spec: Spec, tmp_path: Path) -> None:
    workers = {"num_workers": 2, "resources_per_worker": {"CPU": 1}}
    spec = write_spec(
        train__num_epochs=1,
        train__ray=workers,
        train__ema_decay=0.5,
        train__optim__lr=0.03,
        evaluate__batch_size=1,  # many: both are asked about machines that go, which waits for the other one
    )
    train.run(spec)
    (row,) = _rows(tmp_path / "results")
    best = str(tmp_path / "results" / "train" / "model_best.pth")
    description = load_checkpoint(best).description
    assert description.metrics["pairs"] == 24
    assert float(row["val_auroc"]) == pytest.approx(description.metrics["auroc"], abs=1e-5)
    source = factory.pair_source(load_spec(spec).experiment, "validation", description.layout)
    scores = score_rows(source, model=ModelFile(best), batch_size=8, workers=Workers()).scores
    fitted = fit_threshold(scores, source.annotations.is_defect, policy="recall")
    assert description.threshold.value == pytest.approx(fitted.value, abs=2e-5)


@pytest.mark.slow
def test_a_rate_that_diverges_is_not_tried_again(write_spec: Spec) -> None:
    with pytest.raises(SpecError, match="diverged"):
        train.run(write_spec(train__optim__lr=1e30, train__ray={"max_failures": -1}))


def test_options_of_training_are_taken(write_spec: Spec, tmp_path: Path) -> None:
    spec = write_spec(
        train__num_epochs=2,
        train__precision="bf16-mixed",
        train__ema_decay=0.5,
        train__clip_grad_norm=1.0,
        train__accumulate_grad_batches=2,
        train__checkpoint_interval=1,
        train__checkpoint_interval_unit="step",
        model__classify__difference_module="euclidean",
    )
    train.run(spec)
    folder = tmp_path / "results" / "train"
    # Three batches an epoch, two a step: one whole step, and the rest of the epoch, whose end writes too.
    names = sorted(path.name for path in folder.glob("model_epoch_*.pth"))
    assert names == [f"model_epoch_{e:03d}_step_{s:05d}.pth" for e, s in ((0, 1), (0, 2), (1, 3), (1, 4))]
    checkpoint = load_checkpoint(str(folder / "changenet_model_classify_latest.pth"))
    assert checkpoint.training["raw_weights"] is not None
    assert checkpoint.training["averaged_steps"] == 4


@pytest.mark.slow
def test_early_stopping_ends_before_the_last_epoch(write_spec: Spec, tmp_path: Path) -> None:
    spec = write_spec(train__num_epochs=4, train__early_stopping={"enable": True, "patience": 1, "min_delta": 10.0})
    train.run(spec)
    assert len(_rows(tmp_path / "results")) == 2
    assert (tmp_path / "results" / "train" / "changenet_model_classify_latest.pth").exists()


def test_a_set_without_defects_is_refused_before_any_worker_starts(write_spec: Spec, tmp_path: Path) -> None:
    good = tmp_path / "good.csv"
    rows = "".join(f"test,golden,PASS,train{number:03d}\n" for number in (0, 1, 3, 4))
    good.write_text(f"input_path,golden_path,label,object_name\n{rows}", encoding="utf-8")
    with pytest.raises(DataError, match="no defects"):
        train.run(write_spec(dataset__classify__train_dataset__csv_path=str(good)))


@pytest.mark.slow
def test_secrets_reach_no_written_file(write_spec: Spec, tmp_path: Path) -> None:
    train.run(write_spec(train__num_epochs=1, encryption_key="horse staple"))
    for path in (tmp_path / "results").rglob("*"):
        if path.is_file():
            assert b"horse staple" not in path.read_bytes(), path
    with pytest.raises(CheckpointError):
        load_checkpoint(str(tmp_path / "results" / "train" / "model_best.pth"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_usable_checkpoint_and_the_same_command_goes_on(
    number: signal.Signals,
    write_spec: Spec,
    tmp_path: Path,
    hears_ctrl_c: Callable[[], object],
    deaf_to_ctrl_c: Callable[[], object],
) -> None:
    spec = write_spec(train__num_epochs=400, train__checkpoint_interval=400)  # none is due: only the signal writes one
    latest = tmp_path / "results" / "train" / "changenet_model_classify_latest.pth"
    metrics = latest.with_name("metrics.csv")
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs", "train", "-e", spec],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=hears_ctrl_c if number == signal.SIGINT else deaf_to_ctrl_c,
    )
    try:
        deadline = time.monotonic() + 480  # as long as Ray and workers take where much else runs
        while not metrics.exists():
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(timeout=240) == 1
    finally:
        process.kill()  # or it trains on beside all other tests
    progress = load_checkpoint(str(latest)).training["progress"]
    done = progress["epoch"]
    assert done >= len(_rows(tmp_path / "results")), "at most the steps until the workers heard of it are repeated"
    assert progress["step"] == 3 * done + progress["batch"]
    last = json.loads((tmp_path / "results" / "train" / "status.json").read_text().splitlines()[-1])
    assert last["status"] == "FAILURE"
    assert "interrupted" in last["message"]
    train.run(write_spec(train__num_epochs=done + 1))
    assert [int(row["epoch"]) for row in _rows(tmp_path / "results")] == list(range(done + 1))
