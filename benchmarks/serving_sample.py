"""What serving.py serves and asks: untrained networks as bundles, generated boards, and what the library says of them."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from serving_client import Sample

from changenet.inspection import Inspector

FAN, SMALL = "fan_tiny_8_p4_hybrid", "timm/test_efficientnet"
SIZE = 128


@contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """Give a folder for boards and bundles; without one a folder that is gone afterwards."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def write_boards(folder: Path, pairs: int) -> list[tuple[bytes, bytes, str]]:
    """Return pairs of encoded pictures of generated boards, each with an id for its golden."""
    from changenet.synthetic import Request, write_dataset

    write_dataset(folder, Request(pairs=2 * pairs, size=SIZE))
    with (folder / "train.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:pairs]
    assert len(rows) == pairs

    def read(row: dict[str, str], column: str) -> bytes:
        return next((folder / "images" / row[column]).glob(f"{row['object_name']}.*")).read_bytes()

    return [
        (read(row, "input_path"), read(row, "golden_path"), f"{Path(row['golden_path']).name}-{row['object_name']}")
        for row in rows
    ]


def write_bundle(folder: Path, backbone: str, boards: list[tuple[bytes, bytes, str]], *, seed: int = 0) -> str:
    """Export an untrained network and return its folder; one that is there stays.

    `SMALL` is made as small as it can be, so that servers are what is measured; others as large as TAO's defaults make them.

    Its batch statistics are those of the boards: otherwise it would score all pairs alike, and no answer could be wrong.
    """
    if (folder / "manifest.json").exists():
        return str(folder)
    import torch

    from changenet.data.images import decode_picture
    from changenet.data.lights import PictureLayout
    from changenet.description import ModelDescription, Threshold
    from changenet.export.onnx import export_bundle
    from changenet.model.network import ChangeNet
    from changenet.training.checkpoint import Checkpoint

    torch.manual_seed(seed)
    small = backbone == SMALL
    layout = PictureLayout(width=32 if small else SIZE, height=32 if small else SIZE)
    sizes = {"embed_dim": 8, "learnable_difference_modules": 2} if small else {}
    network = ChangeNet(backbone=backbone, image_size=layout.shape[1:], head="flatten", **sizes)
    pictures = [layout.combine([decode_picture(test)]) for test, _, _ in boards[:16]]
    goldens = [layout.combine([decode_picture(golden)]) for _, golden, _ in boards[:16]]
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = None  # the average of the passes
    network.train()
    with torch.no_grad():
        batch, other = (network.normalise(torch.from_numpy(np.stack(each))) for each in (pictures, goldens))
        for _ in range(3):
            network(batch, other)
    description = ModelDescription(
        network=network.arguments,
        layout=layout,
        threshold=Threshold(value=0.5, policy="recall", target=1.0),
        validation_scores={"edges": [0.0, 0.5, 1.0], "PASS": [9, 0], "defect": [0, 4]},
    )
    export_bundle(Checkpoint(description=description, state=network.state_dict()), folder)
    return str(folder)


def judged(bundle: str, boards: list[tuple[bytes, bytes, str]]) -> list[Sample]:
    """Return the pairs with the scores that the library gives them."""
    verdicts = Inspector.load(bundle).inspect_many([(test, golden) for test, golden, _ in boards])
    return [Sample(*board, verdict.score) for board, verdict in zip(boards, verdicts, strict=True)]


def closest(samples: list[Sample]) -> float:
    """Return the smallest difference of two scores: an answer that was mixed up is off by at least this much."""
    return float(np.diff(sorted(sample.score for sample in samples)).min())
