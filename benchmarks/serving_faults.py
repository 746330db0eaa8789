"""Requests while things die: `serving.py --faults`.

Two replicas of a small network answer, each 26th time for a whole board of all pairs. First nothing happens and the memory of the
replicas is watched; then, during as many requests again, a replica is killed, the proxy is killed, and another bundle takes over.
The client does what a client in
a line has to: a request whose connection is refused or breaks before the answer is sent again, on a new connection, under the
same `X-Request-ID`; so is one that is answered 503. No other answer is asked for twice.

At the end the client's answers, the log of the service (a line a request) and its metrics are held against each other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving_client import TOLERANCE, Call, Sample, board, connect, drive, read_answer, with_golden, with_golden_id
from serving_processes import HAPROXY, PROXY, REPLICA, below, machine, private_bytes
from serving_sample import SMALL, closest, judged, workplace, write_boards, write_bundle
from serving_servers import MODEL, service

PAIRS = 100
CONNECTIONS = 16
PATIENCE = 180.0  # seconds until a request that nobody answers is given up
REPLICAS = 2
REPORT_SECONDS = 12  # Ray hands metrics on every few seconds
PATH = f"/v1/models/{MODEL}/inspect"
BEFORE_A_BOARD = 25  # requests for one pair


@dataclass(frozen=True)
class Asked:
    """A request, and the numbers of the pairs that it is about."""

    call: Call
    pairs: Sequence[int]


@dataclass
class Seen:
    """What the client saw."""

    answers: list[tuple[str, Sequence[int], dict[str, Any]]] = field(default_factory=list)  # id, pairs, answer
    others: Counter[int] = field(default_factory=Counter)  # status of answers that are no verdicts
    broken: Counter[str] = field(default_factory=Counter)  # what a connection ended with, before it was tried again
    busy: int = 0
    longest: float = 0.0


async def send_all(url: str, requests: Sequence[Asked], count: int, seen: Seen) -> None:
    """Send `count` requests over a few connections until each is answered."""
    numbers = iter(range(count))

    async def client() -> None:
        reader = writer = None
        for number in numbers:
            begun = time.monotonic()
            name, asked = f"fault-{number:06d}", requests[number % len(requests)]
            content = asked.call.content(url, number, name)
            while True:
                try:
                    if writer is None:
                        reader, writer = await connect(url)
                    writer.write(content)
                    assert reader is not None
                    status, body, closes = await read_answer(reader)
                    if closes:
                        writer.close()
                        writer = None
                except (OSError, EOFError) as error:
                    assert time.monotonic() - begun < PATIENCE, f"{name} was never answered"
                    seen.broken[type(error).__name__] += 1
                    writer = None
                    await asyncio.sleep(0.2)
                    continue
                if status == 503:
                    assert time.monotonic() - begun < PATIENCE, f"{name} was never answered"
                    seen.busy += 1
                    await asyncio.sleep(1)
                    continue
                break
            seen.longest = max(seen.longest, time.monotonic() - begun)
            if status == 200:
                seen.answers.append((name, asked.pairs, json.loads(body)))
            else:
                seen.others[status] += 1

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))


def run(chosen: argparse.Namespace) -> None:
    """Measure memory, do the damage, and print what became of the requests."""
    count = chosen.requests
    with workplace(chosen.keep) as folder:
        boards = write_boards(folder / "boards", PAIRS)
        bundles = [write_bundle(folder / f"small{seed}", SMALL, boards, seed=seed) for seed in (1, 2)]
        judgements = [judged(bundle, boards) for bundle in bundles]
        apart = min(map(closest, judgements))
        print(f"{machine()}; {SMALL}, {REPLICAS} replicas, {CONNECTIONS} requests at once")
        print(f"two pairs differ by {apart:.1e} at least; an answer may be off by {TOLERANCE:.0e}")
        requests = requests_for(judgements[0])
        print(f"a board has {len(requests[-1].call.body) / 2**20:.1f} MiB")
        with service(bundles[0], judgements[0], threads=1, replicas=REPLICAS, proxy=chosen.proxy) as url:
            watch_memory(url, [asked.call for asked in requests], count)
            break_things(url, requests, count, bundles, judgements)


def requests_for(samples: Sequence[Sample]) -> list[Asked]:
    """Return a request for each pair, and a board of all pairs after some of them."""
    makers = (with_golden_id, with_golden)
    whole = Asked(board(f"{PATH}_batch", samples), range(len(samples)))
    requests = []
    for number, sample in enumerate(samples):
        requests.append(Asked(makers[number % 2](PATH, sample), (number,)))
        if number % BEFORE_A_BOARD == BEFORE_A_BOARD - 1:
            requests.append(whole)
    return requests


def watch_memory(url: str, calls: Sequence[Call], count: int) -> None:
    """Print the memory of the replicas in the middle third and in the last third of the requests."""
    parts = 30
    used = []
    for _ in range(parts):
        load = drive(url, calls, CONNECTIONS, requests=count // parts)
        assert set(load.statuses) == {200} and not load.wrong, load.statuses
        used.append(sum(map(private_bytes, below(os.getpid(), REPLICA))) / 2**20)
    first, middle, last = (sum(used[third * 10 : third * 10 + 10]) / 10 for third in range(3))
    print(
        f"memory of the replicas during {count} requests, MiB: first third {first:.1f}, middle {middle:.1f}, ", end=""
    )
    print(f"last {last:.1f} (x {last / middle:.3f} of the middle)", flush=True)


def break_things(
    url: str, requests: Sequence[Asked], count: int, bundles: Sequence[str], judgements: Sequence[Sequence[Sample]]
) -> None:
    """Send the requests, kill and swap meanwhile, and print the reckoning."""
    seen = Seen()
    time.sleep(REPORT_SECONDS)
    before = counted()
    thread = threading.Thread(target=lambda: asyncio.run(send_all(url, requests, count, seen)), daemon=True)
    started = time.monotonic()
    thread.start()

    def wait_for_share(share: float) -> None:
        while thread.is_alive() and len(seen.answers) < share * count:
            time.sleep(0.05)

    proxy = HAPROXY if below(os.getpid(), HAPROXY) else PROXY
    for share, title in ((0.15, REPLICA), (0.45, proxy)):
        wait_for_share(share)
        victim = max(below(os.getpid(), title))  # a HAProxy that another one took over from may still be there
        os.kill(victim, signal.SIGKILL)
        print(f"  {len(seen.answers):6d} answers: killed {title}", flush=True)
    wait_for_share(0.75)
    swapped = swap(url, bundles[1])
    print(f"  {len(seen.answers):6d} answers: version {swapped} answers", flush=True)
    thread.join()
    seconds = time.monotonic() - started
    reckon(seen, count, bundles, judgements, seconds=seconds, before=before)


def swap(url: str, bundle: str) -> str:
    """Let another bundle take over and return its version; tried again while nobody listens."""
    content = json.dumps({"bundle": bundle}).encode()
    request = urllib.request.Request(f"{url}/v1/models/{MODEL}/swap", content, {"Content-Type": "application/json"})
    for _ in range(int(PATIENCE)):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return str(json.load(answer)["version"])
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
        except OSError:
            pass
        time.sleep(1)
    raise TimeoutError(url)


def reckon(
    seen: Seen,
    count: int,
    bundles: Sequence[str],
    judgements: Sequence[Sequence[Sample]],
    *,
    seconds: float,
    before: int,
) -> None:
    """Print what became of every request."""
    from changenet.bundle import read_bundle

    expected = {read_bundle(bundle).version: samples for bundle, samples in zip(bundles, judgements, strict=True)}
    wrong = 0
    versions: Counter[str] = Counter()
    verdicts = 0
    for _, pairs, answer in seen.answers:
        versions[answer["version"]] += 1
        for pair, row in zip(pairs, answer.get("results", [answer]), strict=True):
            verdicts += 1
            score = expected[answer["version"]][pair].score
            prediction = "FAIL" if score > row["threshold"] else "PASS"
            off = row["score"] is None or abs(row["score"] - score) > TOLERANCE * max(1, abs(score))
            wrong += off or row["prediction"] != prediction
    lines = logged()
    answered = {name for name, _, _ in seen.answers}
    boards = sum("results" in answer for _, _, answer in seen.answers)
    print(
        f"{count} requests in {seconds:.0f} s: {len(answered)} answered, {boards} of them boards, with {verdicts} verdicts"
    )
    print(f"  {dict(seen.others)} other answers, {wrong} wrong verdicts")
    print(f"  by version {dict(versions)}; the longest wait {seen.longest:.1f} s")
    print(
        f"  sent again by the client: {sum(seen.broken.values())} broken {dict(seen.broken)}, {seen.busy} answered 503"
    )
    twice = sum(number - 1 for number in lines.values())
    print(f"  in the log of the service: {len(answered & lines.keys())} of these requests; {twice} judged once more")
    time.sleep(REPORT_SECONDS)
    print(f"  in its metrics: {counted() - before} verdicts (a killed replica takes its last seconds with it)")
    if wrong or seen.others or len(answered) != count:
        raise SystemExit("Requests were lost, refused or judged wrongly.")


def logged() -> Counter[str]:
    """Return how often the replicas' logs have an answer for each request."""
    import ray

    folder = Path(ray._private.worker._global_node.get_logs_dir_path(), "serve")
    found: Counter[str] = Counter()
    for path in folder.glob("replica_*.log"):
        for line in path.read_text(errors="replace").splitlines():
            if '"fault-' in line:
                record = json.loads(line)
                if record.get("status") == 200 and record.keys() & {"prediction", "rows"}:
                    found[record["http_request_id"]] += 1
    return found


def counted() -> int:
    """Return the verdicts that Prometheus would see."""
    import ray

    (node,) = ray.nodes()
    with urllib.request.urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(r"^ray_changenet_decisions_total\{.*\} (\S+)$", text, re.MULTILINE)
    return int(sum(map(float, found)))
