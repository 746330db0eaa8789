"""`changenet serve` as a process of its own."""

import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from changenet.errors import RunError
from ray_jobs.listening import free_port
from ray_jobs.serve import start
from serve.keys import add_key
from serve.settings import ModelSettings, ServiceSettings

PAUSE_SECONDS = 10  # as long as a client may take after the service was told to stop; its replicas have 70


@pytest.mark.slow
@pytest.mark.parametrize(("number", "proxy"), [(signal.SIGTERM, "haproxy"), (signal.SIGINT, "ray")])
def test_it_serves_until_it_is_told_to_stop_and_answers_what_it_has_begun(
    bundles, pictures, slow_request, tmp_path, number, proxy
):
    port = free_port()
    command = [sys.executable, "-m", "ray_jobs", "serve", "--model", f"pcb={bundles['pcb']}", "--port", str(port)]
    command += ["--proxy", proxy]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    complaints = tmp_path / "stderr"
    with (
        complaints.open("wb") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, env=environment) as process,
    ):
        lines = []
        while not lines or "stop" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], "it ended before it served"
        url = re.search(r"http://127\.0\.0\.1:\d+", lines[0]).group()
        files = {"test": pictures[0], "golden": pictures[1]}
        assert httpx.post(f"{url}/v1/models/pcb/inspect", files=files, timeout=60).status_code == 200
        assert f"curl -F test=@test.png -F golden=@golden.png {url}/v1/models/pcb/inspect" in "".join(lines)
        begun = slow_request(f"{url}/v1/models/pcb/inspect")
        time.sleep(2)  # on its way to the replica
        process.send_signal(number)
        time.sleep(PAUSE_SECONDS)
        assert process.poll() is None, "it does not wait"
        answer = begun.finish()
        assert (answer.status_code, answer.json()["model"]) == (200, "pcb"), answer.text
        assert process.wait(timeout=120) == 0
        assert process.stdout.read() == "Stopping.\n"
    assert complaints.read_bytes() == b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/v2/health/live", timeout=5)
        except httpx.TransportError:
            return
        time.sleep(0.5)
    raise AssertionError("something still answers")


@pytest.mark.slow
def test_a_signal_as_soon_as_it_is_ready_stops_it_and_a_swap_is_told_at_the_next_start(bundles, successor, tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "ray_jobs", "serve", "--model", f"pcb={bundles['pcb']}", "--port", str(port)]
    url, environment = f"http://127.0.0.1:{port}", {**os.environ, "RAY_AUTH_MODE": "disabled"}

    def run(then):
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/v2/health/ready", timeout=5).status_code == 200:
                        break
                time.sleep(0.05)
            then()
            process.send_signal(signal.SIGTERM)
            said, complaints = process.communicate(timeout=120)
        assert (process.returncode, complaints) in ((0, ""), (1, "Interrupted.\n"))
        return said

    run(lambda: None)
    change = {"bundle": successor}
    run(lambda: httpx.post(f"{url}/v1/models/pcb/swap", json=change, timeout=60).raise_for_status())
    assert f"pcb is {successor} since a swap, not {bundles['pcb']}" in run(lambda: time.sleep(3))


def test_a_ray_serve_that_does_not_start_is_one_line_and_leaves_nothing_behind(bundles, tmp_path, monkeypatch):
    import ray
    from ray import serve

    def dies(**_):
        raise ray.exceptions.ActorDiedError

    monkeypatch.setattr(serve, "start", dies)
    settings = ServiceSettings(
        models=(ModelSettings(name="pcb", bundle=bundles["pcb"]),), goldens_dir=str(tmp_path / "goldens")
    )
    with pytest.raises(RunError, match=r"Ray Serve does not start \(The actor died"):
        start(settings, port=free_port())
    assert not ray.is_initialized()


@pytest.mark.slow
def test_one_process_may_start_and_stop_it_again_and_again(bundles, tmp_path):
    settings = ServiceSettings(models=(ModelSettings(name="pcb", bundle=bundles["pcb"]),), goldens_dir=str(tmp_path))
    for _ in range(2):
        with start(settings, port=free_port()) as service:
            assert httpx.get(f"{service.url}/v1/models/pcb", timeout=30).status_code == 200


@pytest.mark.slow
def test_a_model_that_does_not_load_ends_it_with_the_reason(bundles, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        f"results_dir: {tmp_path}\n"
        f"serve: {{models: [{{name: pcb, bundle: {bundles['pcb']}, engine: torch}}], port: {free_port()}}}\n"
    )
    command = [sys.executable, "-m", "ray_jobs", "serve", "-e", str(spec)]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert ended.returncode == 2, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "which the torch engine cannot run" in line


@pytest.mark.slow
def test_keys_and_tls_hold_on_the_wire_and_keys_change_while_it_runs(bundles, pictures, tmp_path, self_signed):
    certificate, private = self_signed("127.0.0.1")
    file = str(tmp_path / "keys.txt")
    old = add_key(file, "old")
    port = free_port()
    command = [sys.executable, "-m", "ray_jobs", "serve", "--model", f"pcb={bundles['pcb']}", "--port", str(port)]
    command += ["--keys", file, "--tls-certificate", certificate, "--tls-key", private]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            lines = []
            while not lines or "stop" not in lines[-1]:
                lines.append(process.stdout.readline())
                assert lines[-1], "it ended before it served"
            url = f"https://127.0.0.1:{port}"
            assert url in lines[0] and "$KEY" in "".join(lines)
            with httpx.Client(
                base_url=url, verify=ssl.create_default_context(cafile=certificate), timeout=60
            ) as client:
                files = {"test": pictures[0], "golden": pictures[1]}
                assert client.get("/v2/health/ready").status_code == 200
                refused = client.post("/v1/models/pcb/inspect", files=files)
                assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Bearer")
                answer = client.post("/v1/models/pcb/inspect", files=files, headers={"Authorization": f"Bearer {old}"})
                assert answer.status_code == 200, answer.text
                new = add_key(file, "new")
                kept = [line for line in Path(file).read_text().splitlines() if not line.startswith("old ")]
                Path(file).write_text("\n".join(kept))
                deadline = time.monotonic() + 60
                while client.get("/v1/models", headers={"Authorization": f"Bearer {old}"}).status_code != 401:
                    assert time.monotonic() < deadline, "a revoked key is still taken"
                    time.sleep(0.2)
                assert client.get("/v1/models", headers={"Authorization": f"Bearer {new}"}).status_code == 200
            with pytest.raises(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/v2/health/live", timeout=10)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=120) == 0
