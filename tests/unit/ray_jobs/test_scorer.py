from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from changenet.data.annotations import read_annotations
from changenet.data.pairs import PairSource
from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.errors import EngineError
from changenet.inspection import Inspector
from ray_jobs.scorer import ModelFile, Scorer

ROWS = 11


@pytest.fixture
def source(tmp_path: Path, checkpoint: Any) -> PairSource:
    random = np.random.default_rng(2)
    lines = ["input_path,golden_path,label,object_name"]
    for number in range(ROWS):
        for kind in ("test", "golden"):
            path = tmp_path / "images" / kind / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
        lines.append(f"test,golden,PASS,{number:03d}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return PairSource(
        annotations=read_annotations(tmp_path / "pairs.csv"),
        images_dir=tmp_path / "images",
        image_ext=".png",
        layout=checkpoint.description.layout,
    )


def results(source: PairSource, path: str, *, units: list[list[int]], lanes: int = 1) -> dict[str, list[Any]]:
    scorer = Scorer(model=ModelFile(path), source=source, batch_size=3, lanes=lanes, device="cpu")
    columns: dict[str, list[Any]] = {"row": [], "score": [], "prediction": [], "error": [], "stamp": []}
    for unit in units:
        for block in scorer({"batches": np.array([unit])}):
            for name, values in block.items():
                columns[name] += values.tolist()
    return columns


def test_scores_are_the_inspectors_and_do_not_depend_on_lanes_or_units(
    source: PairSource, checkpoint_file: str
) -> None:
    alone = results(source, checkpoint_file, units=[[0, 3, 6, 9]])
    assert alone == results(source, checkpoint_file, units=[[0, 3], [6, 9]], lanes=3)
    assert alone["row"] == list(range(ROWS))
    assert alone["stamp"] == [source.stamp(row) for row in range(ROWS)]
    inspector = Inspector.load(checkpoint_file)
    for row in range(ROWS):
        (verdict,) = inspector.inspect_arrays(*(picture[None] for picture in source.read(row)))
        assert alone["score"][row] == pytest.approx(verdict.score, abs=1e-5)
        assert alone["prediction"][row] == verdict.prediction


def test_a_row_that_cannot_be_read_says_why_and_stops_nobody_else(
    source: PairSource, checkpoint_file: str, tmp_path: Path
) -> None:
    (tmp_path / "images" / "test" / "004.png").write_bytes(b"no picture")
    for name in ("006", "007", "008"):  # a whole batch
        (tmp_path / "images" / "golden" / f"{name}.png").unlink()
    found = results(source, checkpoint_file, units=[[0, 3, 6, 9]])
    bad = [4, 6, 7, 8]
    assert np.flatnonzero(np.isnan(found["score"])).tolist() == bad
    assert [row for row in range(ROWS) if found["prediction"][row] == "ERROR"] == bad
    assert [row for row in range(ROWS) if found["error"][row]] == bad
    assert "004.png" in found["error"][4]


def test_what_ray_data_notes_about_its_workers_has_no_key() -> None:
    model = ModelFile("a.pth", encryption_key=SecretStr("horse staple"))
    assert "horse staple" not in str(asdict(model)) + repr(model)


def test_a_worker_whose_engine_finds_no_gpu_scores_on_the_cpu_and_says_so(
    source: PairSource, bundle_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ModelFile(str(bundle_folder))
    scorer = Scorer(model=model, source=source, batch_size=3, lanes=1, device="cuda")
    (block,) = scorer({"batches": np.array([[0]])})
    assert np.isfinite(block["score"]).all()
    assert "scores on the CPU" in caplog.text
    assert "onnxruntime-gpu" in caplog.text


def test_integers_that_give_other_scores_here_score_nothing(
    bundle_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle_folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["engines"][0] |= {
        "precision": "int8",
        "parity": {"max_error": 0.1, "agreement": 1.0, "min_agreement": 0.99, "reason": ""},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert ModelFile(str(folder)).load().engine.precision == "int8"
    scores = OnnxRuntimeEngine.scores
    monkeypatch.setattr(OnnxRuntimeEngine, "scores", lambda self, output: scores(self, output) + 0.3)
    with pytest.raises(EngineError, match=r"is off by .* on the bundle's self-test"):
        ModelFile(str(folder)).load()
    assert (
        ModelFile(str(bundle_folder)).load().engine.precision == "fp32"
    )  # its scores were checked when it was exported
