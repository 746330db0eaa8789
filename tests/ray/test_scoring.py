from __future__ import annotations

import csv
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
import yaml
from PIL import Image

from changenet.data.annotations import read_annotations
from changenet.data.lights import PictureLayout
from changenet.data.pairs import PairSource
from changenet.description import BINARY_CLASSES, ModelDescription, Threshold
from changenet.errors import DataError
from changenet.evaluation.cost import Cost
from changenet.inspection import Inspector
from changenet.model.network import ChangeNet
from changenet.training.checkpoint import Checkpoint, save_checkpoint
from ray_jobs import evaluate, export, inference, quantize, quantize_comparison
from ray_jobs.scorer import ModelFile
from ray_jobs.scores_csv import write_scores
from ray_jobs.scoring import score_rows
from ray_jobs.trained import UNFINISHED
from ray_jobs.workers import Workers

SIDE = 32
ROWS = 23
Checkpoints = Callable[..., str]
pytestmark = pytest.mark.usefixtures("local_ray")
CPUS = 4


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoints:
    """Writes a checkpoint of an untrained network; any field of its description can be given."""

    def write(*, classes: tuple[str, ...] = BINARY_CLASSES, **fields: Any) -> str:
        torch.manual_seed(4)
        layout = fields.pop("layout", PictureLayout(width=SIDE, height=SIDE))
        network = ChangeNet(
            backbone="timm/test_efficientnet",
            image_size=layout.shape[1:],
            embed_dim=16,
            num_classes=len(classes),
            multiclass=classes != BINARY_CLASSES,
        )
        description = ModelDescription(
            network=network.arguments,
            layout=layout,
            classes=classes,
            image_ext=".png",
            **{"threshold": Threshold(0.5), **fields},
        )
        path = str(tmp_path / "model.pth")
        save_checkpoint(path, Checkpoint(description, network.state_dict()))
        return path

    return write


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A folder with `pairs.csv`, a column of its own among the required ones, and pictures of noise."""
    random = np.random.default_rng(2)
    rows = [("note", "object_name", "label", "golden_path", "input_path")]
    for number in range(ROWS):
        name = f"{number:03d}"
        for kind in ("test", "golden"):
            pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            path = tmp_path / "images" / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        rows.append(('NA, "00"' if number % 5 else "", name, "PASS" if number % 3 else "open", "golden", "test"))
    with (tmp_path / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


def pairs_of(folder: Path) -> PairSource:
    return PairSource(
        annotations=read_annotations(folder / "pairs.csv"),
        images_dir=folder / "images",
        image_ext=".png",
        layout=PictureLayout(width=SIDE, height=SIDE),
    )


def write_spec(folder: Path, path: str, **changes: Any) -> str:
    split = {"csv_path": str(folder / "pairs.csv"), "images_dir": str(folder / "images")}
    classify = {"test_dataset": split, "infer_dataset": split, "batch_size": 4, **changes.pop("data", {})}
    spec = {
        "task": "classify",
        "results_dir": str(folder / "results"),
        "dataset": {"classify": classify},
        "evaluate": {"checkpoint": path},
        "inference": {"checkpoint": path},
        **changes,
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return str(folder / "spec.yaml")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_scores_keep_csv_order_and_bytes_with_any_number_of_workers(board: Path, checkpoint: Checkpoints) -> None:
    model, source = ModelFile(checkpoint(), threshold=0.5), pairs_of(board)
    written = []
    shares = [Workers((number, number), cpus=1) for number in (1, 2, 4)]
    for workers in (*shares, Workers((1, 1), cpus=4)):
        scored = score_rows(source, model=model, batch_size=2, workers=workers)
        write_scores(str(board / "out.csv"), source.annotations, scored)
        written.append((board / "out.csv").read_bytes())
    assert written == written[:1] * 4

    inspector = Inspector.load(model.path)
    alone = [inspector.inspect_arrays(*(picture[None] for picture in source.read(row)))[0] for row in range(ROWS)]
    assert len({verdict.score for verdict in alone}) == ROWS
    assert scored.scores == pytest.approx([verdict.score for verdict in alone], abs=1e-5)


def test_evaluate_finishes_good_rows_then_lists_the_bad_ones(
    board: Path, checkpoint: Checkpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    (board / "images" / "test" / "005.png").write_bytes(b"no picture")
    (board / "images" / "golden" / "006.png").unlink()
    spec = write_spec(board, checkpoint(threshold=Threshold(0.47, "recall", 1.0, (0.9, 1.0))))
    with pytest.raises(DataError) as raised:
        evaluate.run(spec)
    assert [problem.where for problem in raised.value.problems] == [f"{board / 'pairs.csv'}:{line}" for line in (7, 8)]
    assert "005.png" in str(raised.value)

    folder = board / "results" / "evaluate"
    figures = json.loads((folder / "metrics.json").read_text())
    rows = read_csv(folder / "evaluate.csv")
    assert [row["object_name"] for row in rows] == [f"{number:03d}" for number in range(ROWS)]
    bad, good = rows[5:7], rows[:5] + rows[7:]
    assert all(row["prediction"] == "ERROR" and row["error"] and not row["siamese_score"] for row in bad)
    assert [row["prediction"] for row in good] == [
        "FAIL" if float(row["siamese_score"]) > 0.47 else "PASS" for row in good
    ]
    caught = [row["prediction"] == "FAIL" for row in good if row["label"] != "PASS"]
    assert figures["pairs"] == ROWS - 2
    assert figures["recall"] == sum(caught) / len(caught)
    assert (figures["threshold"], figures["threshold_policy"]) == (0.47, "recall")

    assert {path.name for path in folder.glob("*.png")} >= {"roc.png", "confusion_matrix.png"}
    assert "pairs.csv:7" in (folder / "report.html").read_text()
    shown = capsys.readouterr()
    assert "report.html" in shown.out
    assert f"{ROWS}/{ROWS}" in shown.err
    assert not (folder / UNFINISHED).exists()
    status = [json.loads(line) for line in (folder / "status.json").read_text().splitlines()]
    assert status[-1]["status"] == "FAILURE"
    kpis = next(line["kpi"] for line in status if "kpi" in line)
    assert kpis == pytest.approx(figures["tao"], abs=1e-5)


@pytest.mark.parametrize("action", [evaluate, inference])
def test_a_column_that_the_results_would_replace_is_refused_before_scoring(
    board: Path, checkpoint: Checkpoints, action: Any
) -> None:
    text = (board / "pairs.csv").read_text(encoding="utf-8")
    (board / "pairs.csv").write_text(text.replace("note,", "error,", 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"pairs\.csv:1: has a column 'error'"):
        action.run(write_spec(board, checkpoint()))
    assert not list(board.glob("results/*/*.csv"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "dtype"), [("torchao", "int8"), ("onnxruntime", "int8"), ("modelopt", "fp8_e4m3fn")]
)
def test_a_quantized_network_is_scored_by_every_worker_as_a_file_and_as_a_bundle(
    board: Path, checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch, backend: str, dtype: str
) -> None:
    monkeypatch.setattr(quantize_comparison, "measure", lambda _: Cost({"1": 1.0, "8": 1.0}, 1.0, None))
    rule = {"module_name": "*", "weights": {"dtype": dtype}, "activations": {"dtype": dtype}}
    quantization = {"model_path": checkpoint(), "backend": backend, "layers": [rule]}
    split = {"csv_path": str(board / "pairs.csv"), "images_dir": str(board / "images")}
    results, precision = board / "results", dtype.partition("_")[0]
    path, bundle = str(results / "quantize" / f"quantized_model_{backend}.pth"), str(results / "export" / "bundle")
    scoring = {"checkpoint": path, "is_quantized": True}
    spec = write_spec(
        board,
        path,
        quantize=quantization,
        data={"train_dataset": split},
        evaluate=scoring,
        inference=scoring,
        export={"checkpoint": path},
    )
    assert quantize.run(spec) == 0
    assert evaluate.run(spec) == 0
    assert "Engines and precisions" in (results / "evaluate" / "report.html").read_text()
    assert inference.run(spec) == 0
    # ModelOpt rounds floats: those between two steps fall to either side, with the batch that they are in.
    allowed = 0.05 if backend == "modelopt" else 1e-5
    assert_scored(board, path, allowed=allowed)
    assert export.run(spec, force=True) == 0  # an untrained network decides by a hair
    of_bundle = [f"{action}.checkpoint={bundle}" for action in ("evaluate", "inference")]
    engine = "torch" if backend == "torchao" else "onnxruntime"
    chosen = [f"{action}.engine={engine}" for action in ("evaluate", "inference")]
    assert evaluate.run(spec, [*of_bundle, *chosen]) == 0
    assert f"{engine}, {precision}" in (results / "evaluate" / "report.html").read_text()
    assert inference.run(spec, [*of_bundle, *chosen]) == 0
    assert_scored(board, bundle, engine, allowed=allowed)


def assert_scored(board: Path, path: str, engine: str = "auto", *, allowed: float) -> None:
    """Make sure that the CSV files hold the scores of a network, pair by pair."""
    inspector, source = Inspector.load(path, engine), pairs_of(board)
    alone = [inspector.inspect_arrays(*(picture[None] for picture in source.read(row)))[0] for row in range(ROWS)]
    for action in ("evaluate", "inference"):
        scores = [float(row["siamese_score"]) for row in read_csv(board / "results" / action / f"{action}.csv")]
        assert scores == pytest.approx([verdict.score for verdict in alone], abs=allowed)


@pytest.mark.slow
def test_inference_needs_no_labels(board: Path, checkpoint: Checkpoints) -> None:
    text = (board / "pairs.csv").read_text().replace("label", "remark", 1)
    (board / "pairs.csv").write_text(text)
    assert inference.run(write_spec(board, checkpoint())) == 0
    rows = read_csv(board / "results" / "inference" / "inference.csv")
    assert len(rows) == ROWS
    assert all(row["siamese_score"] and row["prediction"] in ("PASS", "FAIL") for row in rows)


def test_workers_that_take_long_to_begin_are_not_waited_for_in_silence(
    board: Path, checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ray_jobs.scoring.SLOW_START", 0.0)
    assert inference.run(write_spec(board, checkpoint())) == 0
    assert "No worker has finished anything yet" in caplog.text


@pytest.mark.slow
def test_real_classes_are_named_and_counted(board: Path, checkpoint: Checkpoints) -> None:
    path = checkpoint(classes=("PASS", "open", "short"), threshold=Threshold(0.6, "margin"))
    assert evaluate.run(write_spec(board, path)) == 0
    folder = board / "results" / "evaluate"
    for row in read_csv(folder / "evaluate.csv"):
        assert (row["prediction"] in ("open", "short")) == (float(row["siamese_score"]) > 0.6)
    matrix = json.loads((folder / "metrics.json").read_text())["confusion_matrix"]
    assert sum(map(sum, matrix["counts"])) == ROWS


@pytest.mark.slow
def test_a_new_recall_target_is_fitted_on_validation(board: Path, checkpoint: Checkpoints) -> None:
    spec = write_spec(board, checkpoint(threshold=Threshold(0.3, "recall", 1.0)))
    split = {"csv_path": str(board / "pairs.csv"), "images_dir": str(board / "images")}
    evaluate.run(spec, ["evaluate.threshold.target=0.5", f"dataset.classify.validation_dataset={json.dumps(split)}"])
    figures = json.loads((board / "results" / "evaluate" / "metrics.json").read_text())
    assert figures["threshold_policy"] == "recall"
    assert figures["threshold"] != 0.3
    assert figures["recall"] == 0.5


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("action", "asked"),
    [
        (inference, {"num_workers": CPUS}),
        (evaluate, {"num_workers": CPUS}),
        (inference, {"num_workers": 2 * CPUS}),
        (inference, {"num_workers": 2, "resources_per_worker": {"CPU": CPUS - 1}}),  # one has to do it all
    ],
)
def test_workers_that_take_every_cpu_starve_nobody(
    board: Path, checkpoint: Checkpoints, action: Any, asked: dict[str, Any]
) -> None:
    path, name = checkpoint(), action.__name__.rpartition(".")[2]
    (board / "images" / "test" / "005.png").write_bytes(b"no picture")
    spec = write_spec(board, path, data={"batch_size": 1}, **{name: {"checkpoint": path, "ray": asked}})
    with pytest.raises(DataError, match=r"005\.png"):
        action.run(spec)
    rows = read_csv(board / "results" / name / f"{name}.csv")
    assert [row["object_name"] for row in rows if row["siamese_score"]] == [f"{n:03d}" for n in range(ROWS) if n != 5]
    assert (rows[5]["prediction"], rows[5]["siamese_score"]) == ("ERROR", "")


@pytest.mark.slow
@pytest.mark.parametrize("action", [inference, evaluate])
def test_a_run_that_was_killed_goes_on(
    board: Path, checkpoint: Checkpoints, action: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path, name = checkpoint(), action.__name__.rpartition(".")[2]
    # Units of two batches, one after the other; the last one waits for a picture that never comes.
    asked = {"num_workers": 1, "resources_per_worker": {"CPU": 1}}
    spec = write_spec(board, path, **{name: {"checkpoint": path, "ray": asked}})
    picture, folder = board / "images" / "test" / "020.png", board / "results" / name
    content = picture.read_bytes()
    picture.unlink()
    os.mkfifo(picture)
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "ray_jobs", name, "-e", spec, "--address", address]
    with (board / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as run:
        try:
            wait_until(lambda: bool(list(folder.glob(f"{UNFINISHED}/*.npz"))) or run.poll() is not None)
        finally:
            run.kill()
    assert run.returncode == -signal.SIGKILL, (board / "log").read_text()
    assert not (folder / f"{name}.csv").exists()
    picture.unlink()
    picture.write_bytes(content)

    with caplog.at_level(logging.INFO):
        assert action.run(spec) == 0
    (before,) = re.findall(rf"Going on: (\d+) of {ROWS} rows were scored before", caplog.text)
    assert 0 < int(before) < ROWS
    assert not (folder / UNFINISHED).exists()
    caplog.clear()
    assert action.run(spec, [f"results_dir={board / 'undisturbed'}"]) == 0
    assert "Going on" not in caplog.text
    undisturbed = board / "undisturbed" / name / f"{name}.csv"
    assert (folder / f"{name}.csv").read_bytes() == undisturbed.read_bytes()


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)
