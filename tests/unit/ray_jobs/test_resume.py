from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from changenet import factory, storage
from changenet.errors import CheckpointError, SpecError
from changenet.spec import Experiment, load_spec
from changenet.training.checkpoint import Checkpoint, save_checkpoint
from ray_jobs import train, train_run
from ray_jobs.checkpoint_files import LATEST, checkpoint_name
from ray_jobs.resume import Start, find_start
from ray_jobs.workers import Workers

Spec = Callable[..., str]


@pytest.fixture
def start(write_spec: Spec, tmp_path: Path) -> Callable[..., Start]:
    """Find where a run of the spec begins, in a folder that an earlier run left behind after two epochs."""

    def experiment(**changes: Any) -> Experiment:
        return load_spec(write_spec(**changes)).experiment

    def find(*, epochs: int | None = 2, began: dict[str, Any] | None = None, **changes: Any) -> Start:
        folder = tmp_path / "results" / "train"
        if epochs is not None:
            spec = experiment(**(began or {}))
            network = factory.make_network(spec)
            description = factory.describe(spec, network.arguments, data_hash=factory.training_data_hash(spec))
            save_checkpoint(
                str(folder / LATEST), Checkpoint(description, network.state_dict(), {"progress": {"epoch": epochs}})
            )
        spec = experiment(**changes)
        return find_start(spec, str(folder), factory.make_network(spec, pretrained=False).arguments)

    return find


def test_a_run_begins_anew_or_goes_on(start: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert start(epochs=None) == Start()
    with caplog.at_level(logging.INFO):
        found = start(train__num_epochs=5, train__optim__lr=0.1, train__pretrained_model_path="other.pth")
    assert found == Start(str(tmp_path / "results" / "train" / LATEST), 2)
    assert "Going on from" in caplog.text
    assert "train.pretrained_model_path is not read" in caplog.text
    assert "differs from its beginning: train.optim.lr from 0.003 to 0.1." in caplog.text


def test_a_link_to_a_checkpoint_that_is_gone_is_no_new_run(start: Any, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "train"
    folder.mkdir(parents=True)
    storage.set_latest(folder / LATEST, "model_epoch_003_step_00012.pth")
    with pytest.raises(
        CheckpointError, match=r"latest.pth: names model_epoch_003_step_00012.pth, which is gone. Start"
    ):
        start(epochs=None)
    for epoch in range(3):
        (folder / checkpoint_name(epoch, 3 * epoch + 3)).touch()
    with pytest.raises(
        CheckpointError, match=r"Name another one \(model_epoch_000.*, .*model_epoch_002.*\) as train.resume"
    ):
        start(epochs=None)


def test_every_key_that_differs_is_named(start: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        start(
            train__num_epochs=5,
            began={"dataset__classify__input_map": {"a": 0, "b": 1}},
            dataset__classify__input_map={"a": 0, "c": 1},
            dataset__classify__batch_size=12,
            model__classify__embed_dec=9,
            train__optim__optim="sgd",
        )
    text = str(caught.value)
    for line in (
        "dataset.classify.input_map is ['a', 'b'] in the checkpoint and ['a', 'c'] in the spec",
        "dataset.classify.batch_size is 8 in the checkpoint and 12 in the spec",
        "model.classify.embed_dec is 30 in the checkpoint and 9 in the spec",
        "train.optim.optim is 'adamw' in the checkpoint and 'sgd' in the spec",
    ):
        assert line in text
    assert "another results_dir" in text


def test_fewer_epochs_than_were_trained_is_said(start: Any) -> None:
    with pytest.raises(SpecError, match=r"train\.num_epochs: is 1, but .* has been trained for 2 epochs"):
        start(train__num_epochs=1)


def test_a_finished_run_that_is_named_leaves_nothing_to_train(start: Any, tmp_path: Path) -> None:
    named = str(tmp_path / "results" / "train" / LATEST)
    with pytest.raises(CheckpointError, match="nothing is left to train") as caught:
        start(train__num_epochs=2, train__resume_training_checkpoint_path=named)
    assert "train.pretrained_model_path" in str(caught.value)
    assert start(train__num_epochs=2).epochs == 2  # the same command again is no error


def test_a_file_of_other_rows_is_another_run_and_one_that_changed_a_warning(
    start: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, pair_folder: Path
) -> None:
    key = "dataset__classify__train_dataset__csv_path"
    rows = (pair_folder / "train.csv").read_bytes()
    copied, more = tmp_path / "copied.csv", tmp_path / "more.csv"
    copied.write_bytes(rows)
    more.write_bytes(rows + rows.splitlines()[-1] + b"\n")
    start(train__num_epochs=5, **{key: str(copied)})
    with pytest.raises(
        CheckpointError,
        match=r"train_dataset\.csv_path is '.*' in the checkpoint and '.*' in the spec, with other rows",
    ):
        start(train__num_epochs=5, **{key: str(more)})
    start(began={key: str(copied)}, train__num_epochs=5, **{key: str(copied)})
    copied.write_bytes(more.read_bytes())
    with caplog.at_level(logging.WARNING):
        start(epochs=None, train__num_epochs=5, **{key: str(copied)})
    assert f"{copied} has changed since the run began" in caplog.text


def test_weights_alone_are_no_run(start: Any, tao_state: Any, write_tao: Any, checkpoint_file: str) -> None:
    with pytest.raises(CheckpointError, match=r"train\.pretrained_model_path"):
        start(train__resume_training_checkpoint_path=checkpoint_file)


def test_what_is_wrong_shows_before_a_worker_starts(
    write_spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.cluster, "connect", lambda _address: pytest.fail("a cluster was asked for"))
    for key in ("train__pretrained_model_path", "model__backbone__pretrained_backbone_path"):
        with pytest.raises(CheckpointError, match=r"gone\.pth"):
            train.run(write_spec(**{key: str(tmp_path / "gone.pth")}))


def test_a_batch_must_be_shared_equally_by_the_workers_there_are(write_spec: Spec) -> None:
    experiment = load_spec(write_spec(dataset__classify__batch_size=10)).experiment
    train_run.check_share(experiment, Workers((5, 5)))
    train_run.check_share(experiment, Workers((1, 2)))
    for count, unequal in (((3, 3), 3), ((10, 10), 10), ((1, 5), 3)):
        with pytest.raises(SpecError, match=rf"batch_size: is 10, which cannot be shared by {unequal} workers"):
            train_run.check_share(experiment, Workers(count))
