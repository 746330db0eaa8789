"""Another bundle takes over while requests come in."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import changenet


def test_a_swap_and_a_rollback_under_load_lose_and_mix_nothing(service, bundles, successor, pictures, tmp_path):
    url = f"{service}/v1/models/pcb"
    inspectors = [changenet.load(bundle) for bundle in (bundles["pcb"], successor)]
    expected = {each.bundle.version: each.inspect(pictures[0], pictures[1]).score for each in inspectors}
    old, new = expected
    assert abs(expected[old] - expected[new]) > 1e-3, "scores too alike to tell the two apart"
    done, answers = threading.Event(), []

    def client() -> None:
        files = {"test": pictures[0], "golden": pictures[1]}
        with httpx.Client(timeout=120) as session:
            while not done.is_set():
                answers.append(session.post(f"{url}/inspect", files=files))

    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(client) for _ in range(4)]
        try:
            with httpx.Client(timeout=120) as admin:
                assert admin.post(f"{url}/swap", json={"bundle": successor}).json()["version"] == new
                broken = shutil.copytree(successor, tmp_path / "broken")
                graph = Path(broken, "encoder.onnx")
                graph.write_bytes(graph.read_bytes()[:-1] + b"x")
                refused = admin.post(f"{url}/swap", json={"bundle": str(broken)})
                assert refused.status_code == 422 and "encoder.onnx" in refused.json()["detail"]
                listed = next(
                    each for each in admin.get(f"{service}/v1/models").json()["models"] if each["name"] == "pcb"
                )
                assert listed["version"] == new and "encoder.onnx" in listed["failure"]["reason"]
                shadow = {"bundle": bundles["pcb"], "traffic": 0.5}
                assert admin.put(f"{url}/shadow", json=shadow).json()["shadow"] == old
                assert admin.delete(f"{url}/shadow").status_code == 204
                assert admin.post(f"{url}/rollback").json()["version"] == old
        finally:
            done.set()
        for each in running:
            each.result(timeout=180)
    assert {answer.status_code for answer in answers} == {200}
    found = [(answer.json()["version"], answer.json()["score"]) for answer in answers]
    assert {version for version, _ in found} == {old, new}
    assert all(score == pytest.approx(expected[version], abs=1e-5) for version, score in found)
