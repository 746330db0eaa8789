"""From the CSV files to verdicts with real classes, and with several goldens: train, evaluate, inference, export."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import changenet
from changenet.synthetic import Request, write_dataset
from changenet.training.checkpoint import load_checkpoint
from ray_jobs import evaluate, export, inference, train

Spec = Callable[..., str]
PART = ("missing", "shifted", "rotated", "tombstone")
pytestmark = pytest.mark.usefixtures("local_ray")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated boards whose defects are of two kinds: of the part, and of the solder or the board."""
    folder = tmp_path_factory.mktemp("boards")
    write_dataset(str(folder), Request(pairs=160, size=32), workers=1)
    for path in folder.glob("*.csv"):
        rows = read_csv(path)
        for row in rows:
            if row["label"] != "PASS":
                row["label"] = "part" if row["label"] in PART else "solder"
        write_csv(path, rows)
    return folder


def splits(folder: Path) -> dict[str, dict[str, str]]:
    names = {"train": "train", "validation": "val", "test": "test", "infer": "infer"}
    return {
        f"dataset__classify__{split}_dataset": {
            "csv_path": str(folder / f"{name}.csv"),
            "images_dir": str(folder / "images"),
        }
        for split, name in names.items()
    }


@pytest.mark.slow
def test_three_classes_reach_every_file(boards: Path, write_spec: Spec, tmp_path: Path) -> None:
    latest = str(tmp_path / "results" / "train" / "changenet_model_classify_latest.pth")
    classes = ("PASS", "solder", "part")
    spec = write_spec(
        **splits(boards),
        model__backbone__type="fan_tiny_8_p4_hybrid",
        dataset__classify__image_ext=".jpg",
        dataset__classify__classes=list(classes),
        train__classify__cls_weight=[1.0, 2.0, 2.0],
        train__num_epochs=1,
        evaluate__checkpoint=latest,
        inference__checkpoint=latest,
    )
    assert train.run(spec) == 0
    description = load_checkpoint(latest).description
    assert description.classes == classes
    assert description.network["num_classes"] == 3
    assert set(description.metrics["per_class"]) == set(classes)

    assert evaluate.run(spec) == 0
    folder = tmp_path / "results" / "evaluate"
    rows, figures = read_csv(folder / "evaluate.csv"), json.loads((folder / "metrics.json").read_text())
    threshold = description.threshold.value
    assert figures["threshold"] == threshold
    for row in rows:
        assert (row["prediction"] == "PASS") == (float(row["siamese_score"]) <= threshold)
    assert {row["prediction"] for row in rows} <= set(classes)
    for name, row in figures["per_class"].items():
        called = [each["prediction"] == name for each in rows if each["label"] == name]
        assert row["pairs"] == len(called) > 0
        assert row["recall"] == pytest.approx(np.mean(called))
    matrix = figures["confusion_matrix"]
    assert matrix["labels"] == matrix["predictions"] == list(classes)
    assert sum(map(sum, matrix["counts"])) == len(rows)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "By class" in page
    assert all(f"<th>{name}</th>" in page for name in classes)

    assert inference.run(spec, ["model.classify.eval_margin=0.0"]) == 0
    named = read_csv(tmp_path / "results" / "inference" / "inference.csv")
    assert {row["prediction"] for row in named} <= {"solder", "part"}  # no score is below 0: everything gets a class
    inspector = changenet.load(latest).with_threshold(0.0)
    first = named[0]
    places = [
        boards / "images" / first[column] / f"{first['object_name']}.jpg" for column in ("input_path", "golden_path")
    ]
    verdict = inspector.inspect(*places)
    assert verdict.prediction == first["prediction"]
    assert verdict.score == pytest.approx(float(first["siamese_score"]), abs=1e-5)


@pytest.fixture(scope="module")
def golden_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 pairs a split with one to three goldens each; every fourth part has a bright square."""
    folder, random = tmp_path_factory.mktemp("goldens"), np.random.default_rng(5)
    for split in ("train", "val", "test", "infer"):
        rows = []
        for number in range(8):
            name, base = f"{split}{number:02d}", random.integers(40, 120, (32, 32, 3))
            pictures = {f"test/{name}": base.copy()}
            if number % 4 == 3:
                pictures[f"test/{name}"][8:24, 8:24] = 250
            pictures |= {f"golden/{name}/g{golden}": base for golden in range(number % 3 + 1)}
            for path, pixels in pictures.items():
                file = folder / "images" / f"{path}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                noisy = np.clip(pixels + random.integers(-8, 9, base.shape), 0, 255)
                Image.fromarray(noisy.astype(np.uint8)).save(file)
            label = "bridge" if number % 4 == 3 else "PASS"
            rows.append({"input_path": "test", "golden_path": f"golden/{name}", "label": label, "object_name": name})
        write_csv(folder / f"{split}.csv", rows)
    return folder


@pytest.mark.slow
def test_several_goldens_from_training_to_the_bundle(golden_folders: Path, write_spec: Spec, tmp_path: Path) -> None:
    results = tmp_path / "results"
    latest = str(results / "train" / "changenet_model_classify_latest.pth")
    spec = write_spec(
        **splits(golden_folders),
        dataset__classify__num_golden=2,
        dataset__classify__image_width=224,
        dataset__classify__image_height=224,
        model__classify__golden_gradients="all",
        train__num_epochs=1,
        evaluate__checkpoint=latest,
        inference__checkpoint=str(results / "export" / "bundle"),
        export__checkpoint=latest,
    )
    assert train.run(spec) == 0
    checkpoint = load_checkpoint(latest)
    arguments = checkpoint.description.network
    assert (checkpoint.description.num_golden, arguments["num_golden"], arguments["golden_gradients"]) == (2, 2, "all")
    assert checkpoint.state["pyramid.golden_fusion.3.position"].any()  # began at zero: it has learned

    evaluate.run(spec)
    first = (results / "evaluate" / "evaluate.csv").read_bytes()
    evaluate.run(spec)
    assert (results / "evaluate" / "evaluate.csv").read_bytes() == first

    assert export.run(spec) == 0
    infer = f"dataset.classify.infer_dataset.csv_path={golden_folders / 'test.csv'}"
    assert inference.run(spec, [infer]) == 0
    by_checkpoint = read_csv(results / "evaluate" / "evaluate.csv")
    by_bundle = read_csv(results / "inference" / "inference.csv")
    scores = [[float(row["siamese_score"]) for row in rows] for rows in (by_checkpoint, by_bundle)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)

    inspector, images = changenet.load(str(results / "export" / "bundle")), golden_folders / "images"
    for number in (0, 1, 2):  # one, two and three goldens: the first two by name, one of them twice
        goldens = sorted((images / "golden" / f"test{number:02d}").iterdir())[:2]
        verdict = inspector.inspect(images / "test" / f"test{number:02d}.png", goldens)
        assert verdict.score == pytest.approx(scores[1][number], abs=1e-5)
