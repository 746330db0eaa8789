from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_road_decides_well_and_a_used_folder_is_safe(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ray_jobs", "quickstart", "--out"]
    results = tmp_path / "demo" / "results"
    answer = subprocess.run([*command, str(tmp_path / "demo")], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    for step in ("sample", "check", "train", "evaluate", "inference", "export", "quantize", "serve"):
        assert step in answer.stdout
    assert "HTTP answers" in answer.stdout
    assert json.loads((results / "quantize" / "comparison.json").read_text())["agreement"] >= 0.99
    figures = json.loads((results / "evaluate" / "metrics.json").read_text())
    assert figures["auroc"] >= 0.99

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep me")
    answer = subprocess.run([*command, str(mine)], capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert (mine / "notes.txt").read_text() == "keep me"
