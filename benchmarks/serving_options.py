"""What Ray Serve's own options for throughput give, and what passing requests on costs: `serving.py --options`.

They are environment variables that count when Ray starts, so each row is a process with a Ray of its own; one row is a model
with a replica of its own instead, to which requests are passed on. The network is so
small that servers, not engines, are what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from serving_client import Sample, board, with_golden_id
from serving_processes import HAPROXY, PROXY, REPLICA, below, processor_seconds
from serving_sample import SMALL, judged, workplace, write_boards, write_bundle
from serving_servers import MODEL, Clients, service

from serve import haproxy

BASE = "as `changenet serve` starts it, with HAProxy"
ALONE = "the same, the model in a replica of its own"
OWN_THREAD = "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD"
BUFFERED = {"RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000", "RAY_SERVE_LOG_TO_STDERR": "0"}
OWN_PROXY = {haproxy.SWITCH: "0"}
OPTIONS = {
    BASE: {},
    ALONE: {},
    "HAProxy, our code in the replica's main loop": {OWN_THREAD: "0"},
    "HAProxy, logs buffered, none to stderr": BUFFERED,
    "HAProxy, workers at Ray's niceness of 15": {"RAY_worker_niceness": "15"},
    "Ray Serve's proxy": OWN_PROXY,
    "Ray Serve's proxy, gRPC to the replica": OWN_PROXY | {"RAY_SERVE_USE_GRPC_BY_DEFAULT": "1"},
    "Ray Serve's proxy, our code in the replica's main loop": OWN_PROXY | {OWN_THREAD: "0"},
    "Ray Serve's proxy, its router in its main loop": OWN_PROXY | {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"},
    "Ray Serve's proxy, logs buffered, none to stderr": OWN_PROXY | BUFFERED,
    "Ray Serve's proxy, these four": OWN_PROXY
    | {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"},
}


def run(chosen: argparse.Namespace) -> None:
    """Measure every option and print the table."""
    with workplace(chosen.keep) as folder:
        boards = write_boards(folder / "boards", 100)
        bundle = write_bundle(folder / "small1", SMALL, boards, seed=1)
        found = {}
        print("| option | " + " | ".join(HEADS) + " |\n|---|" + "---|" * len(HEADS))
        for name, variables in OPTIONS.items():
            environment = {**os.environ, **variables}
            command = [sys.executable, __file__, str(folder), bundle, str(chosen.seconds), *([ALONE] * (name == ALONE))]
            answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
            if answer.returncode:
                print(f"| {name} | does not run |", flush=True)
                continue
            found[name] = json.loads(answer.stdout.splitlines()[-1])
            print(f"| {name} | {' | '.join(_cells(found[name], found[BASE]))} |", flush=True)


HEADS = (
    "1 request at once, p50",
    "32 at once, requests/s",
    "board, pairs/s",
    "computing for a request, ms: proxy",
    "replica",
)


def _cells(case: dict[str, float], base: dict[str, float]) -> list[str]:
    return [
        f"{case['p50_ms']:.1f} ms, x {case['p50_ms'] / base['p50_ms']:.2f}",
        f"{case['single']:.0f}, x {case['single'] / base['single']:.2f}",
        f"{case['board']:.0f}, x {case['board'] / base['board']:.2f}",
        f"{case['proxy_ms']:.1f}",
        f"{case['replica_ms']:.1f}",
    ]


def measure(samples: list[Sample], bundle: str, seconds: float, *, alone: bool) -> dict[str, float]:
    """Measure the service in this process's environment."""
    path = f"/v1/models/{MODEL}/inspect"
    singles = [with_golden_id(path, each) for each in samples]
    with Clients() as clients, service(bundle, samples, threads=1, alone=alone) as url:
        clients.drive(url, singles, 32, seconds=3)
        lone = clients.drive(url, singles, 1, seconds=seconds)
        proxies = [*below(os.getpid(), PROXY), *below(os.getpid(), HAPROXY)]
        replicas = below(os.getpid(), REPLICA)
        before = processor_seconds(proxies), processor_seconds(replicas)
        many = clients.drive(url, singles, 32, seconds=seconds)
        proxy, replica = processor_seconds(proxies) - before[0], processor_seconds(replicas) - before[1]
        boards = clients.drive(url, [board(f"{path}_batch", samples)], 2, seconds=seconds)
    for load in (lone, many, boards):
        assert set(load.statuses) == {200} and not load.wrong, (load.statuses, load.wrong)
    return {
        "p50_ms": 1e3 * float(np.median(lone.latencies)),
        "single": len(many.latencies) / many.seconds,
        "board": len(boards.latencies) * len(samples) / boards.seconds,
        "proxy_ms": 1e3 * proxy / len(many.latencies),
        "replica_ms": 1e3 * replica / len(many.latencies),
    }


if __name__ == "__main__":
    folder, bundle, seconds, *options = sys.argv[1:]
    boards = write_boards(Path(folder, "boards"), 100)
    print(json.dumps(measure(judged(bundle, boards), bundle, float(seconds), alone=ALONE in options)))
