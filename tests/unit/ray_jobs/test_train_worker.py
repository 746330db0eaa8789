"""The training run of one worker, without a cluster: Ray's part is played by a few plain objects."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from changenet import storage
from changenet.errors import DataError, SpecError
from changenet.spec import load_spec
from changenet.training.checkpoint import load_checkpoint
from changenet.training.loop import predict
from ray_jobs import learner, shared_storage, train_worker
from ray_jobs.checkpoint_files import LATEST, latest_name

Run = Callable[..., Path]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, write_spec: Callable[..., str], tmp_path: Path) -> Run:
    train = train_worker.ray.train
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(train, "get_context", lambda: context)
    monkeypatch.setattr(train.collective, "broadcast_from_rank_zero", lambda chosen: chosen)
    monkeypatch.setattr(train, "get_preemption_info", lambda: None)
    monkeypatch.setattr(train, "report", lambda *_args, **_options: None)
    monkeypatch.setattr(train.torch, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(train.torch, "prepare_model", lambda network, **_options: network)
    monkeypatch.setattr(learner, "log_to", lambda _monitor: None)
    monkeypatch.setattr(train_worker.ray, "get", lambda answer: answer)

    def worker(checkpoint: str | None = None, *, stop_after: int | None = None, **changes: Any) -> Path:
        monitor = SimpleNamespace(
            show=SimpleNamespace(remote=lambda *_: None),
            reached=SimpleNamespace(remote=lambda _step: stop_after),
            failure=SimpleNamespace(remote=lambda: None),
            fail=SimpleNamespace(remote=lambda _error: None),
        )
        marked = changes.pop("marked", True)
        experiment = load_spec(write_spec(**changes)).experiment
        folder = tmp_path / "train"
        if marked:
            shared_storage.mark(str(folder), "run")
        train_worker.train_worker(
            {
                "experiment": experiment,
                "name": "run",
                "folder": str(folder),
                "checkpoint": checkpoint,
                "before": latest_name(str(folder)),
                "threads": 1,
                "monitor": monitor,
                "working_dir": ".",
            }
        )
        return folder

    return worker


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("model_*.pth"))


def test_step_checkpoints_at_the_end_of_an_epoch_are_written(run: Run) -> None:
    # Three batches an epoch: the third step is the end of the first epoch.
    folder = run(train__num_epochs=2, train__checkpoint_interval=3, train__checkpoint_interval_unit="step")
    assert "model_epoch_000_step_00003.pth" in names(folder)


def test_a_run_that_is_stopped_writes_where_it_is_and_goes_on_from_there(run: Run) -> None:
    latest = run(train__num_epochs=2, train__checkpoint_interval=2, stop_after=2) / LATEST
    assert (
        load_checkpoint(str(latest)).training["progress"] | {"epoch": 0, "batch": 2, "step": 2}
        == (load_checkpoint(str(latest)).training["progress"])
    )
    folder = run(str(latest), train__num_epochs=2, train__checkpoint_interval=2)
    assert "model_epoch_001_step_00006.pth" in names(folder)


def test_a_run_whose_network_drops_paths_by_chance_ends_where_an_undisturbed_one_does(run: Run) -> None:
    changes: dict[str, Any] = {"model__backbone__type": "fan_tiny_8_p4_hybrid", "train__num_epochs": 1}
    latest = run(**changes, stop_after=2) / LATEST
    again = load_checkpoint(str(run(str(latest), **changes) / LATEST))
    assert again.training["progress"]["step"] == 3
    storage.remove_folder(latest.parent)
    undisturbed = load_checkpoint(str(run(**changes) / LATEST))
    assert all(torch.equal(undisturbed.state[name], tensor) for name, tensor in again.state.items())


def test_a_run_that_is_stopped_at_the_end_of_an_epoch_ends_with_it(run: Run) -> None:
    folder = run(train__num_epochs=2, train__checkpoint_interval=2, stop_after=3)
    assert load_checkpoint(str(folder / LATEST)).training["progress"]["epoch"] == 1


def test_a_metric_of_training_picks_the_best_without_a_validation_set(run: Run) -> None:
    changes: dict[str, Any] = {"dataset__classify__validation_dataset__csv_path": None, "train__num_epochs": 1}
    assert "model_best.pth" not in names(run(**changes))
    assert "model_best.pth" in names(run(**changes, train__optim__monitor_name="train_loss"))


def test_a_run_that_stopped_early_is_over(run: Run) -> None:
    stopping = {"enable": True, "patience": 1, "min_delta": 10.0}
    folder = run(train__num_epochs=4, train__early_stopping=stopping)
    before = names(folder)
    assert "model_epoch_001_step_00006.pth" in before
    run(str(folder / LATEST), train__num_epochs=4, train__early_stopping=stopping)
    assert names(folder) == before


def test_a_resumed_run_keeps_the_figures_of_the_last_validation(run: Run) -> None:
    folder = run(train__num_epochs=1)
    run(str(folder / LATEST), train__num_epochs=3, train__validation_interval=3)
    description = load_checkpoint(str(folder / "model_epoch_001_step_00006.pth")).description
    assert description.metrics["pairs"] == 24
    assert description.validation_scores["edges"]


def test_a_network_without_numbers_at_validation_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverged(*arguments: Any, **options: Any) -> Any:
        result = predict(*arguments, **options)
        return replace(result, output=torch.full_like(result.output, float("nan")))

    monkeypatch.setattr(train_worker, "predict", diverged)
    with pytest.raises(SpecError, match="diverged in epoch 0"):
        run(train__num_epochs=1)


def test_the_best_epochs_keep_files_of_their_own_and_old_periodic_ones_go(run: Run) -> None:
    # The loss falls: by this order the first epochs are the best, and later ones must not push them out.
    checkpointer = {"enable_topk": True, "save_top_k": 2, "filename": "top_{epoch}", "replace_periodic": True}
    changes = {"train__checkpointer": {**checkpointer, "monitor": "train_loss", "mode": "max"}}
    folder = run(train__num_epochs=3, **changes)
    assert names(folder) == ["model_best.pth", "model_epoch_002_step_00009.pth"]
    run(str(folder / LATEST), train__num_epochs=5, **changes)
    assert names(folder) == ["model_best.pth", "model_epoch_004_step_00015.pth"]
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        losses = {int(row["epoch"]): float(row["train_loss"]) for row in csv.DictReader(file)}
    best = sorted(losses, key=losses.__getitem__)[-2:]
    assert sorted(path.name for path in folder.glob("top_*")) == [f"top_{epoch}.pth" for epoch in sorted(best)]


def test_old_checkpoints_that_go_are_those_of_the_run_alone(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    theirs = folder / "model_epoch_009_step_00100.pth"
    folder.mkdir()
    theirs.write_bytes(b"copied from elsewhere")
    replace: dict[str, Any] = {"train__checkpointer": {"replace_periodic": True}}
    run(train__num_epochs=2)
    run(str(folder / LATEST), train__num_epochs=3, **replace)
    assert names(folder) == ["model_best.pth", "model_epoch_002_step_00009.pth", theirs.name]
    begun_with = str(folder / "model_epoch_002_step_00009.pth")
    run(str(folder / LATEST), train__num_epochs=4, train__pretrained_model_path=begun_with, **replace)
    assert names(folder)[1:] == ["model_epoch_002_step_00009.pth", "model_epoch_003_step_00012.pth", theirs.name]


def test_a_notice_leaves_one_early_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_worker.ray.train, "get_preemption_info", lambda: "a machine goes")
    folder = run(train__num_epochs=4, train__checkpoint_interval=4)
    assert names(folder) == ["model_best.pth", "model_epoch_001_step_00005.pth", "model_epoch_003_step_00012.pth"]


def test_a_notice_at_the_last_step_of_an_epoch_is_not_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([None, None, "a machine goes"])  # after 5, 10 and 15 steps; three make an epoch
    monkeypatch.setattr(train_worker.ray.train, "get_preemption_info", lambda: next(answers))
    assert "model_epoch_004_step_00015.pth" in names(run(train__num_epochs=6, train__checkpoint_interval=6))


def test_a_notice_during_validation_loses_no_step(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Three steps an epoch, and six batches of validation: Ray is asked after the fifth.
    changes: dict[str, Any] = {"train__num_epochs": 2, "train__checkpoint_interval": 2, "evaluate__batch_size": 4}
    train, latest = train_worker.ray.train, tmp_path / "train" / LATEST

    def taken_away(*_arguments: Any, **_options: Any) -> None:
        raise ConnectionError("the machine is gone")

    with monkeypatch.context() as patch:
        patch.setattr(train, "get_preemption_info", lambda: "a machine goes")
        patch.setattr(train, "report", taken_away)
        with pytest.raises(ConnectionError):
            run(**changes)
    progress = load_checkpoint(str(latest)).training["progress"]
    assert (progress["epoch"], progress["step"]) == (0, 3), "trained, and not validated"
    folder = run(str(latest), **changes)
    again = load_checkpoint(str(folder / LATEST))
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "3"), ("1", "6")]
    assert all(row["train_loss"] and row["val_loss"] for row in rows)
    storage.remove_folder(folder)
    undisturbed = load_checkpoint(str(run(**changes) / LATEST))
    assert all(torch.equal(undisturbed.state[name], tensor) for name, tensor in again.state.items())


def test_a_worker_that_does_not_see_the_folders_of_its_run_ends_it(run: Run, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"results_dir: .*train is not seen by [\d.]+\. Use a place that all nodes mount"
    ):
        run(marked=False)
    with pytest.raises(DataError, match=r"train_dataset.images_dir: /nowhere is not seen by"):
        run(dataset__classify__train_dataset__images_dir="/nowhere")
    shared_storage.mark(str(tmp_path / "train"), "another")
    with pytest.raises(DataError, match="is not seen by"):
        run(marked=False)
