"""Lights, sizes and order agree with TAO's data pipeline on real pictures."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest

from changenet.data.annotations import read_annotations
from changenet.data.lights import PictureLayout
from changenet.data.pairs import PairSource

HERE = Path(__file__).resolve().parent
CASES = json.loads((HERE / "preprocessing.json").read_text())
REAL_DATA = Path(os.environ.get("CHANGENET_REAL_DATA") or HERE.parents[1] / "../shared/data")
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)[:, None, None]
TOLERANCE = 1 / 255 / float(STD.min())  # one grey level, normalised


def thinned(values: np.ndarray) -> np.ndarray:
    """Return the 512 elements that were recorded."""
    random = np.random.Generator(np.random.PCG64(zlib.crc32(b"samples")))
    return values.reshape(-1)[random.integers(0, values.size, size=512)]


@pytest.mark.parametrize("name", CASES)
def test_pictures_agree_with_tao(name):
    case = CASES[name]
    folder = REAL_DATA / case["set"]
    if not folder.is_dir():
        pytest.skip(f"no real data at {REAL_DATA} (set CHANGENET_REAL_DATA)")
    layout = PictureLayout(
        lights=tuple(case["lights"] or ("",)),
        concat=case["concat"],
        grid=(case["grid"]["x"], case["grid"]["y"]) if case["grid"] else (1, 1),
        width=case["w"],
        height=case["h"],
    )
    annotations = read_annotations(folder / case["csv"])
    source = PairSource(
        annotations=annotations, images_dir=folder / "images", image_ext=case["ext"], layout=layout, golden_cache_mb=0
    )
    pairs = [source.read(row) for row in range(case["rows"])]
    expected = np.load(HERE / "preprocessing.npz")
    for index, which in enumerate(("test", "golden")):
        ours = (np.stack([pair[index] for pair in pairs]).astype(np.float32) / 255 - MEAN) / STD  # (rows, 3, H, W)
        assert list(ours.shape) == case["shape"]
        means = ours.mean(axis=(2, 3))
        assert np.abs(means - expected[f"{name}/{which}_mean"]).max() < TOLERANCE
        assert np.abs(thinned(ours) - expected[f"{name}/{which}_samples"]).mean() < TOLERANCE
    labels = expected[f"{name}/label"].ravel()
    assert annotations.is_defect[: case["rows"]].tolist() == labels.astype(bool).tolist()
