"""A model with replicas of its own beside one without: another bundle takes over under load, and all its replicas die."""

import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import changenet

LIGHTS = ("SolderLight", "WhiteLight")
SECONDS = 240


@pytest.fixture(scope="module")
def service(bundles, tmp_path_factory, local_ray):
    from ray_jobs.listening import free_port
    from ray_jobs.serve import start
    from serve.settings import Autoscaling, ModelSettings, ServiceSettings

    models = (
        ModelSettings(name="pcb", bundle=bundles["pcb"], replicas=2),
        ModelSettings(name="lights", bundle=bundles["lights"]),
        ModelSettings(name="rare", bundle=bundles["pcb"], autoscaling=Autoscaling(min_replicas=0, max_replicas=2)),
    )
    goldens = str(tmp_path_factory.mktemp("goldens"))
    settings = ServiceSettings(models=models, goldens_dir=goldens)
    with local_ray(4), start(settings, port=free_port()) as running:
        yield running.url


def listed(client, service):
    return {each["name"]: each for each in client.get(f"{service}/v1/models").json()["models"]}


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
                until = time.monotonic() + SECONDS
                # Any of its replicas may answer; they follow each other within about a second.
                while (pcb := listed(admin, service)["pcb"])["version"] != new or not pcb["failure"]:
                    assert time.monotonic() < until, pcb
                    time.sleep(0.2)
                assert "encoder.onnx" in pcb["failure"]["reason"]
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


@pytest.mark.slow
def test_a_model_whose_replicas_all_die_fails_alone_and_comes_back(service, inspectors, pictures):
    from ray.serve.context import _get_global_client

    test, golden = ({light: pictures[first + n] for n, light in enumerate(LIGHTS)} for first in (0, 2))
    parts = {f"{role}.{light}": each[light] for role, each in (("test", test), ("golden", golden)) for light in LIGHTS}
    expected = {
        "pcb": inspectors["pcb"].inspect(pictures[0], pictures[1]).score,
        "lights": inspectors["lights"].inspect(test, golden).score,
    }
    expected["rare"] = expected["pcb"]

    def inspect(client, model):
        files = parts if model == "lights" else {"test": pictures[0], "golden": pictures[1]}
        return client.post(f"{service}/v1/models/{model}/inspect", files=files)

    def right(answer, model):
        return answer.status_code == 200 and answer.json()["score"] == pytest.approx(expected[model], abs=1e-5)

    with httpx.Client(timeout=SECONDS) as client, ThreadPoolExecutor(1) as other:
        until = time.monotonic() + SECONDS
        while not all(right(inspect(client, "pcb"), "pcb") for _ in range(10)):
            assert time.monotonic() < until, "a replica still answers with the bundle of the test before"
            time.sleep(0.2)
        assert right(inspect(client, "lights"), "lights")
        details = _get_global_client().get_serve_details()["applications"]["changenet"]["deployments"]
        victims = [each["pid"] for each in details["inspection-pcb"]["replicas"]]
        assert len(victims) == 2 and len(details["inspection"]["replicas"]) == 1
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        until = time.monotonic() + SECONDS
        while True:
            waiting = other.submit(inspect, client, "pcb")
            while not waiting.done():
                assert right(inspect(client, "lights"), "lights")
                time.sleep(0.2)
            assert "lights" in listed(client, service)
            if (answer := waiting.result()).status_code == 200:
                break
            assert answer.status_code == 503 and answer.headers["retry-after"], answer.text
            assert time.monotonic() < until, answer.text
        assert right(answer, "pcb")
        (rare,) = (each for each in client.get(f"{service}/v1/models").json()["away"] if each["name"] == "rare")
        assert rare["sleeps"] is True
        while client.get(f"{service}/v2/health/ready").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.5)
        while (answer := inspect(client, "rare")).status_code == 503:  # it takes longer to wake than a request may
            assert time.monotonic() < until
        assert right(answer, "rare")
