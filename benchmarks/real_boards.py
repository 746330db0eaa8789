"""Train and judge the recipes of `specs/deeppcb_*.yaml` on real boards, beside two comparators that learn nothing.

    CHANGENET_REAL_DATA=/data python benchmarks/real_boards.py [--results DIR] [--set KEY=VALUE] [SPEC_NAME ...]

Finished runs in DIR are not trained again. Prints the tables of docs/results.md. Without names: every recipe, one after
the other (about two hours on two cores).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from changenet.evaluation.curves import auroc, operating_points
from ray_jobs import evaluate, train
from ray_jobs.console import err

SPECS = Path(__file__).parents[1] / "specs"
RECALLS = (1.0, 0.99)


def main() -> None:
    """Run what is asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", default=sorted(path.stem for path in SPECS.glob("deeppcb_*.yaml")))
    parser.add_argument("--results", default="results")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of every spec")
    chosen = parser.parse_args()
    if not (folder := os.environ.get("CHANGENET_REAL_DATA")):
        parser.error("CHANGENET_REAL_DATA must name the folder that holds deeppcb/")
    data = Path(folder)
    print(f"Machine: {machine()}\n")
    print(
        "| | test AUROC | false calls at 100 % recall | at 99 % recall | recall / false calls at the fitted threshold |"
    )
    print("|---|---|---|---|---|")
    tests, goldens, defects = binary_pairs(data / "deeppcb")
    for name, compare in (("B0: blurred difference", blurred_difference), ("B1: shift-tolerant blob", largest_blob)):
        scores = [compare(test, golden) for test, golden in zip(tests, goldens, strict=True)]
        print(row(name, np.array(scores), defects, "none"))
    per_label = {}
    for name in chosen.specs:
        effort = run(name, Path(chosen.results), chosen.set)
        folder = Path(chosen.results, name, "evaluate")
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        with (folder / "evaluate.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        scores = np.array([float(each["siamese_score"]) for each in rows])
        truth = np.array([each["label"] != "PASS" for each in rows])
        fitted = f"{metrics['recall']:.3f} / {100 * metrics['false_call_rate']:.1f} %"
        print(row(f"{name} ({effort})", scores, truth, fitted))
        per_label[name] = metrics["per_label"]
    labels = sorted({label for each in per_label.values() for label in each} - {"PASS"})
    print("\n| recall by type | " + " | ".join(labels) + " |\n|---" * 1 + "|---" * len(labels) + "|")
    for name, each in per_label.items():
        print(f"| {name} | " + " | ".join(f"{each[label]['recall']:.3f}" for label in labels if label in each) + " |")


def run(name: str, results: Path, changes: list[str]) -> str:
    """Train and evaluate one recipe unless that is done; return how long its training took."""
    overrides = [
        f"results_dir={results / name}",
        f"evaluate.checkpoint={results / name}/train/changenet_model_classify_latest.pth",
        *changes,
    ]
    spec = str(SPECS / f"{name}.yaml")
    if not (results / name / "evaluate" / "metrics.json").exists():
        err.print(f"{time.strftime('%H:%M')} {name}")
        train.run(spec, overrides)
        evaluate.run(spec, overrides)
    with (results / name / "train" / "metrics.csv").open(encoding="utf-8") as file:
        epochs = list(csv.DictReader(file))
    minutes = sum(float(epoch["seconds"]) for epoch in epochs) / 60
    return f"{len(epochs)} epochs, {minutes:.0f} min"


def row(name: str, scores: np.ndarray, truth: np.ndarray, fitted: str) -> str:
    """Return one line of the table."""
    points = operating_points(scores, truth)
    rates = [points.false_call_rate()[np.argmax(points.recall() >= recall)] for recall in RECALLS]
    cells = [name, f"{auroc(points):.4f}", *(f"{100 * rate:.1f} %" for rate in rates), fitted]
    return "| " + " | ".join(cells) + " |"


def binary_pairs(folder: Path) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Return test and golden of every row of the test set as truth values (copper), and which rows are defects."""
    with (folder / "test.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def read(column: str) -> list[np.ndarray]:
        return [
            np.asarray(Image.open(folder / "images" / each[column] / f"{each['object_name']}.png").convert("L")) < 128
            for each in rows
        ]

    return read("input_path"), read("golden_path"), np.array([each["label"] != "PASS" for each in rows])


def blurred_difference(test: np.ndarray, golden: np.ndarray) -> float:
    """Return the maximum of the difference, blurred by one pixel: no registration."""
    return float(ndimage.gaussian_filter((test != golden).astype(float), 1).max())


def largest_blob(test: np.ndarray, golden: np.ndarray, *, reach: int = 6, tolerance: int = 2) -> float:
    """Return the area of the largest blob of material that has no equal within the tolerance, after the best shift."""
    padded = np.pad(golden, reach, mode="edge")
    height, width = golden.shape
    shifted = (
        padded[down : down + height, right : right + width]
        for down in range(2 * reach + 1)
        for right in range(2 * reach + 1)
    )
    golden = min(shifted, key=lambda each: np.count_nonzero(each != test))
    near = np.ones((2 * tolerance + 1, 2 * tolerance + 1), dtype=bool)
    unexplained = np.zeros_like(test)
    for one, other in ((test, golden), (golden, test)):
        for material in (True, False):
            unexplained |= (one == material) & ~ndimage.binary_dilation(other == material, near)
    blobs, count = ndimage.label(unexplained)
    return float(ndimage.sum_labels(unexplained, blobs, range(1, count + 1)).max()) if count else 0.0


def machine() -> str:
    """Return what the figures were taken on."""
    import torch

    return f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, Python {sys.version.split()[0]}"


if __name__ == "__main__":
    main()
