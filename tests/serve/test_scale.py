"""Replicas by load, a replica and a proxy that die: the real command, and every request accounted for."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import changenet
from ray_jobs.listening import free_port

CLIENTS = 12
SLOW_CLIENTS = 2  # one a replica, and fewer than one replica is there for
SLOW_SECONDS = 8
SECONDS = 240
# Below Ray's own ten seconds of measuring, nothing would be steadier; the pause before a replica goes must outlast it.
SPEC = """
results_dir: {folder}
serve:
  port: {port}
  autoscaling: {{max_replicas: 2, target_ongoing_requests: 3, upscale_delay_s: 1, downscale_delay_s: 5}}
  models: [{{name: pcb, bundle: {bundle}}}]
"""


def replicas_of(process: int) -> list[int]:
    """Return the process ids of the replicas below a process."""
    return actors_of(process, b"ray::ServeReplica:changenet")


def actors_of(process: int, kind: bytes) -> list[int]:
    """Return the process ids of the actors of a kind, or of a program, below a process."""
    parents, found = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                title = (entry / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue
            if title.startswith(kind) or title.split(b"\0")[0].endswith(b"/" + kind):
                found.append(int(entry.name))

    def below(number: int) -> bool:
        return number == process or (number in parents and below(parents[number]))

    return [number for number in found if below(number)]


def wait_for_more(statuses: Counter) -> None:
    """Wait until many more requests were answered well."""
    before = statuses[200]
    wait_for("more answers", lambda: statuses[200] > before + 100)


def wait_for(what: str, condition) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.5)


PROXIES = {"haproxy": b"haproxy", "ray": b"ray::ProxyActor"}


@pytest.fixture(params=list(PROXIES))
def proxy(request):
    return request.param


@pytest.fixture
def served(bundles, tmp_path, proxy):
    port = free_port()
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.format(folder=tmp_path, port=port, bundle=bundles["pcb"]))
    command = [sys.executable, "-m", "ray_jobs", "serve", "-e", str(spec), "--proxy", proxy]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        line = process.stdout.readline()
        assert re.search("Serving pcb", line), "it ended before it served"
        yield process.pid, f"http://127.0.0.1:{port}/v1/models/pcb/inspect"
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=180)


@pytest.mark.slow
def test_replicas_come_and_go_with_the_load_and_no_request_is_lost(served, bundles, pictures, slow_request, proxy):
    process, url = served
    expected = changenet.load(bundles["pcb"]).inspect(pictures[0], pictures[1]).score
    done, statuses, sent, broken = threading.Event(), Counter({200: 0}), Counter(), Counter()
    wrong = []

    pair = {"test": pictures[0], "golden": pictures[1]}
    large = {**pair, "test": pictures[0] + bytes(3 << 20)}  # decoders skip what is behind a picture
    manifest = {"manifest": json.dumps([{"id": "C1", "test": {"": "test"}, "golden": {"": "golden"}}])}

    def ask(number: int) -> httpx.Response:
        """Ask for a pair, or a board of 3 MiB, until there is an answer: a dead proxy gives none, and another one has to learn of the replicas."""
        until = time.monotonic() + SECONDS
        while True:
            try:
                if number % 3:
                    answer = httpx.post(url, files=pair, timeout=120)
                else:
                    answer = httpx.post(f"{url}_batch", files=large, data=manifest, timeout=120)
            except httpx.TransportError as error:
                said = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code != 503:
                    return answer
                said = f"{answer.json()['type']}: {answer.json()['detail']}"
            said += " (a board)" * (not number % 3)
            assert time.monotonic() < until, said
            broken[said] += 1
            time.sleep(0.2)

    def client() -> None:
        while not done.is_set():
            sent["requests"] += 1
            answer = ask(sent["requests"])
            statuses[answer.status_code] += 1
            (judged,) = answer.json().get("results", [answer.json()])
            if answer.status_code == 200 and abs(judged["score"] - expected) > 1e-5:
                wrong.append(answer.json())

    assert len(replicas_of(process)) == 1
    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(client) for _ in range(CLIENTS)]
        try:
            wait_for("a second replica under load", lambda: len(replicas_of(process)) == 2)
            wait_for_more(statuses)
            assert set(statuses) == {200}, statuses
            victim = replicas_of(process)[0]
            os.kill(victim, signal.SIGKILL)
            wait_for("a replica in the place of the dead one", lambda: len(set(replicas_of(process)) - {victim}) == 2)
            wait_for_more(statuses)
            # Asked again by the client: only an answer that had begun, which no proxy can take back.
            unsaid = [said for said in broken if "without sending complete message body" not in said]
            assert not unsaid, f"{broken}: what the dead replica had begun went to another one"
            before = broken.total()
            victims = actors_of(process, PROXIES[proxy])  # a HAProxy that another one took over from may still be there
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            wait_for("another proxy", lambda: set(actors_of(process, PROXIES[proxy])) - set(victims))
            wait_for_more(statuses)
        finally:
            done.set()
        for each in running:
            each.result(timeout=180)
    assert broken.total() > before, "nobody noticed that the proxy was dead"
    assert statuses == {200: sent["requests"]} and not wrong
    shrunk = threading.Event()

    def slow_client() -> list[int]:
        answered = []
        while not shrunk.is_set():
            begun = slow_request(url)
            time.sleep(SLOW_SECONDS)
            answered.append(begun.finish().status_code)
        return answered

    with ThreadPoolExecutor(SLOW_CLIENTS) as clients:
        running = [clients.submit(slow_client) for _ in range(SLOW_CLIENTS)]
        try:
            wait_for("one replica for little load", lambda: len(replicas_of(process)) == 1)
        finally:
            shrunk.set()
        answered = [status for each in running for status in each.result(timeout=180)]
    assert set(answered) == {200}, "the replica that went had begun some of them"
    assert httpx.post(url, files={"test": pictures[0], "golden": pictures[1]}, timeout=120).status_code == 200
