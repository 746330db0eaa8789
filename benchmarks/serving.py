"""How fast the service is: beside the engine alone, and beside LitServe with the same engine. All in one run.

    .venv/bin/python benchmarks/serving.py QUICKSTART [--seconds 8] [--memory 10000]

QUICKSTART is what `changenet quickstart` leaves; its test set is asked over loopback. The peer needs the extra `bench`.

- engine: pairs a second in this process, on pictures that are decoded already, goldens encoded before; 1 and 16 a call.
- inline: `inspect` with both pictures; cached: with a registered golden; board: `inspect_batch` of 100 pairs.
- LitServe (serving_peer.py): batches of up to 16, goldens kept by id in the worker.

Clients are coroutines of this process that send ready-made bytes over connections that stay open. On a machine of few cores
they and the servers share them, so compare rows with each other, not with other machines.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

MODEL = "boards"
BATCH = 16
BOARD = 100
BOUNDARY = "changenet-benchmark"
CONCURRENCIES = (1, 8, 32)


@dataclass(frozen=True)
class Pair:
    """Encoded pictures, and the id of the golden."""

    test: bytes
    golden: bytes
    golden_id: str


def read_pairs(home: Path, count: int) -> list[Pair]:
    """Return the first pairs of the test set."""
    images = home / "data" / "images"
    with (home / "data" / "test.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:count]

    def read(row: dict[str, str], column: str) -> bytes:
        return next((images / row[column]).glob(f"{row['object_name']}.*")).read_bytes()

    return [
        Pair(read(row, "input_path"), read(row, "golden_path"), f"{Path(row['golden_path']).name}-{row['object_name']}")
        for row in rows
    ]


def form(parts: Sequence[tuple[str, bytes, bool]]) -> bytes:
    """Return a multipart body of (name, content, is a file)."""
    pieces = []
    for name, content, is_file in parts:
        file = '; filename="a"' if is_file else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        pieces += [head.encode(), content, b"\r\n"]
    return b"".join([*pieces, f"--{BOUNDARY}--\r\n".encode()])


def inline(pair: Pair) -> bytes:
    """Both pictures."""
    return form([("test", pair.test, True), ("golden", pair.golden, True)])


def cached(pair: Pair) -> bytes:
    """The test picture and the id of its golden."""
    return form([("test", pair.test, True), ("golden_id", pair.golden_id.encode(), False)])


def board(pairs: Sequence[Pair]) -> bytes:
    """A whole board, goldens by id."""
    manifest = [
        {"id": str(number), "test": {"": f"t{number}"}, "golden_id": pair.golden_id}
        for number, pair in enumerate(pairs)
    ]
    tests = [(f"t{number}", pair.test, True) for number, pair in enumerate(pairs)]
    return form([("manifest", json.dumps(manifest).encode(), False), *tests])


def request(url: str, path: str, body: bytes, method: str = "POST") -> bytes:
    """Return a whole HTTP request."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(frozen=True)
class Load:
    """What clients saw: seconds a request, seconds in all, answers by status."""

    latencies: list[float]
    seconds: float
    statuses: dict[int, int]

    def line(self) -> tuple[float, str]:
        """Return requests a second, and the percentiles in words."""
        p50, p95, p99 = 1e3 * np.percentile(self.latencies, [50, 95, 99])
        wrong = {status: count for status, count in self.statuses.items() if status not in (200, 201)}
        words = f"p50 {p50:6.1f}  p95 {p95:6.1f}  p99 {p99:6.1f} ms{f'  NOT 200: {wrong}' if wrong else ''}"
        return len(self.latencies) / self.seconds, words


async def ask(url: str, requests: Iterator[bytes], *, concurrency: int, go_on: Callable[[int, float], bool]) -> Load:
    """Keep `concurrency` requests under way as long as `go_on` (requests begun, seconds) says so."""
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    started = time.perf_counter()
    begun = 0

    async def client() -> None:
        nonlocal begun
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        while go_on(begun, time.perf_counter() - started):
            begun += 1
            sent = time.perf_counter()
            writer.write(next(requests))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
            latencies.append(time.perf_counter() - sent)
            status = int(head.split()[1])
            statuses[status] = statuses.get(status, 0) + 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return Load(latencies, time.perf_counter() - started, statuses)


def measure(url: str, requests: Sequence[bytes], *, concurrency: int, seconds: float) -> Load:
    """Ask for some seconds, after a second that does not count."""
    endless = cycle(requests)
    asyncio.run(ask(url, endless, concurrency=concurrency, go_on=lambda _, gone: gone < 1))
    return asyncio.run(ask(url, endless, concurrency=concurrency, go_on=lambda _, gone: gone < seconds))


def measure_engine(bundle: str, pairs: Sequence[Pair], seconds: float) -> dict[str, float]:
    """Return pairs a second of the engine alone, and milliseconds to decode and compare one pair with a kept golden."""
    import changenet

    inspector = changenet.load(bundle)
    engine = inspector.engine
    tests = np.stack([inspector.prepare_picture(pair.test) for pair in pairs])
    goldens = np.stack([inspector.prepare_picture(pair.golden) for pair in pairs])
    halves = engine.prepare_golden(engine.encode(goldens))

    def rate(batch: int) -> float:
        def once(at: int) -> None:
            chosen = [(at + step) % len(pairs) for step in range(batch)]
            engine.compare(engine.encode(tests[chosen]), [level[chosen] for level in halves])

        once(0)
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            once(done)
            done += batch
        return done / (time.perf_counter() - started)

    started = time.perf_counter()
    for pair in pairs:
        inspector.prepare_picture(pair.test)
    decode = (time.perf_counter() - started) / len(pairs)
    single = rate(1)
    return {"1": single, "16": rate(BATCH), "alone_ms": 1e3 * (decode + 1 / single)}


def anonymous_bytes(pid: int) -> int:
    """Return the private memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def replicas() -> list[int]:
    """Return the replicas that descend from this process; other services of this machine are left alone."""
    parents, found = {}, []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if (folder / "cmdline").read_bytes().startswith(b"ray::ServeReplica"):
                    found.append(int(folder.name))
            except OSError:  # it has ended
                continue

    def is_ours(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return [pid for pid in found if is_ours(pid)]


def measure_memory(url: str, requests: Sequence[bytes], count: int) -> None:
    """Print the memory of the replica while it answers."""
    endless = cycle(requests)
    for part in range(1, 6):
        load = asyncio.run(ask(url, endless, concurrency=8, go_on=lambda begun, _: begun < count // 5))
        used = " ".join(f"{anonymous_bytes(pid) / 2**20:.0f}" for pid in replicas())
        print(f"  after {part * count // 5:6d} requests: {used} MiB  answers {load.statuses}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--memory", type=int, default=10_000, help="Requests of the memory test.")
    options = parser.parse_args()
    bundle = str((options.home / "results" / "export" / "bundle").absolute())
    pairs = read_pairs(options.home, BOARD)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; pairs a second")
    engine = measure_engine(bundle, pairs, options.seconds)
    print(f"engine alone, 1 a call   {engine['1']:8.1f}")
    print(f"engine alone, 16 a call  {engine['16']:8.1f}   (100 %)")
    found: dict[tuple[str, str, int], float] = {}

    def show(server: str, kind: str, concurrency: int, load: Load, pairs_a_request: int = 1) -> None:
        requests, words = load.line()
        found[server, kind, concurrency] = requests * pairs_a_request
        share = 100 * found[server, kind, concurrency] / engine["16"]
        print(f"{server:8} {kind:7} x {concurrency:2d}   {requests * pairs_a_request:8.1f}   {share:5.1f} %   {words}")

    measure_service(bundle, pairs, options, show, engine["alone_ms"])
    measure_peer(pairs, options, show)
    for (server, kind, concurrency), rate in found.items():
        if server == "service" and ("LitServe", kind, concurrency) in found:
            print(f"service / LitServe, {kind} x {concurrency}: {rate / found['LitServe', kind, concurrency]:.2f}")


def measure_service(
    bundle: str, pairs: Sequence[Pair], options: argparse.Namespace, show: Callable[..., None], alone_ms: float
) -> None:
    """Run the service on a local Ray."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import tempfile

    from ray_jobs.serve import free_port, start
    from serve.settings import ModelSettings, ServiceSettings

    settings = ServiceSettings(models=(ModelSettings(name=MODEL, bundle=bundle),), goldens_dir=tempfile.mkdtemp())
    with start(settings, port=free_port()) as running:
        url, base = running.url, f"/v1/models/{MODEL}"
        goldens = {pair.golden_id: form([("golden", pair.golden, True)]) for pair in pairs}
        puts = [request(url, f"{base}/goldens/{name}", body, "PUT") for name, body in goldens.items()]
        registered = asyncio.run(ask(url, iter(puts), concurrency=1, go_on=lambda begun, _: begun < len(puts)))
        assert set(registered.statuses) == {201}, registered.statuses
        single = {
            "inline": [request(url, f"{base}/inspect", inline(pair)) for pair in pairs],
            "cached": [request(url, f"{base}/inspect", cached(pair)) for pair in pairs],
        }
        for kind, requests in single.items():
            for concurrency in CONCURRENCIES:
                load = measure(url, requests, concurrency=concurrency, seconds=options.seconds)
                show("service", kind, concurrency, load)
                if (kind, concurrency) == ("cached", 1):
                    print(f"  added at concurrency 1: {1e3 * float(np.median(load.latencies)) - alone_ms:.1f} ms")
        boards = [request(url, f"{base}/inspect_batch", board(pairs))]
        for concurrency in (1, 2):
            load = measure(url, boards, concurrency=concurrency, seconds=options.seconds)
            show("service", "board", concurrency, load, pairs_a_request=len(pairs))
        measure_memory(url, single["cached"], options.memory)


def measure_peer(pairs: Sequence[Pair], options: argparse.Namespace, show: Callable[..., None]) -> None:
    """Run LitServe in a process of its own."""
    import urllib.request

    from ray_jobs.serve import free_port

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(Path(__file__).with_name("serving_peer.py")), str(options.home), str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as peer:
        try:
            for _ in range(900):
                try:
                    with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                        if answer.status == 200:
                            break
                except OSError:
                    time.sleep(0.2)
            for kind, make in (("inline", inline), ("cached", cached)):
                requests = [request(url, "/predict", make(pair)) for pair in pairs]
                for concurrency in CONCURRENCIES:
                    load = measure(url, requests, concurrency=concurrency, seconds=options.seconds)
                    show("LitServe", kind, concurrency, load)
        finally:
            os.killpg(peer.pid, 15)


if __name__ == "__main__":
    main()
