"""How fast the service is: beside the engine alone, and beside LitServe with the same engine. All in one run.

    .venv/bin/python benchmarks/serving.py                  # the tables of docs/results.md
    .venv/bin/python benchmarks/serving.py --options        # what Ray Serve's own options give
    .venv/bin/python benchmarks/serving.py --faults         # replica and proxy killed, bundle swapped; memory

100 pairs of generated boards at 128 px are asked over loopback, of an untrained `fan_tiny` as large as TAO's defaults make it.
The peer needs the extra `bench`.

- engine alone: pairs a second in this process, on pictures that are decoded already, 1 and 16 a call: the faster counts.
- golden new: both pictures in each request, and nobody has seen the golden before; the engine alone encodes it too.
- golden again: both pictures, the same twenty goldens over and over, which the service recognises by their bytes.
- golden kept: the id of a registered golden; a board is `inspect_batch` with 100 of them.
- LitServe (serving_peer.py): batches of up to 16, goldens kept by id in the worker.

The client is a process of its own on the same CPUs, and every answer is held to the library's score. Engines get as many
threads as asked for, alone and in both servers alike: all CPUs, where whatever a server does takes time from its engine, and
one less, which leaves a CPU for servers and client.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from serving_client import Load, Sample, board, with_golden, with_golden_id, with_new_golden
from serving_processes import machine
from serving_sample import FAN, SIZE, closest, judged, workplace, write_boards, write_bundle
from serving_servers import MODEL, Clients, peer, service

from changenet.inspection import Inspector

BATCH = 16
BOARD = 100
CLIENTS = (1, 8, 32)
WARM_SECONDS = 1.5
KINDS = {"new": "sent, new", "again": "sent again", "kept": "kept, by id", "board": "board of 100, by id"}


@dataclass(frozen=True)
class Alone:
    """The engine alone: pairs a second by how many a call, and seconds to decode and compare one pair."""

    kept: dict[int, float]
    new: dict[int, float]
    pair_seconds: float


@dataclass(frozen=True)
class Row:
    """One measurement of a server."""

    server: str
    kind: str
    clients: int
    rate: float
    load: Load

    @property
    def percentiles(self) -> list[float]:
        """Milliseconds of a request: p50, p95, p99."""
        return [1e3 * float(value) for value in np.percentile(self.load.latencies, [50, 95, 99])]

    def line(self, alone: float, peer: Row | None) -> str:
        """Return a line of the table; `alone` is the speed of the engine alone."""
        times = " | ".join(f"{value:.1f}" for value in self.percentiles)
        cells = [KINDS[self.kind], str(self.clients), f"{self.rate:.1f}", f"{100 * self.rate / alone:.0f} %", times]
        if peer:
            p50, _, p99 = peer.percentiles
            cells += [f"{self.rate / peer.rate:.2f}", f"{p50:.1f}", f"{p99:.1f}"]
        else:
            cells += ["", "", ""]
        return f"| {' | '.join(cells)} |"


def measure_engine(bundle: str, samples: Sequence[Sample], threads: int, seconds: float) -> Alone:
    """Measure the engine alone."""
    inspector = Inspector.load(bundle, threads=threads)
    engine = inspector.engine
    started = time.perf_counter()
    tests = np.stack([inspector.prepare_picture(sample.test) for sample in samples])
    decode = (time.perf_counter() - started) / len(samples)
    goldens = np.stack([inspector.prepare_picture(sample.golden) for sample in samples])
    halves = engine.prepare_golden(engine.encode(goldens))

    def rate(batch: int, *, new: bool) -> float:
        def once(at: int) -> None:
            chosen = [(at + step) % len(samples) for step in range(batch)]
            if new:
                engine.output(tests[chosen], goldens[chosen])
            else:
                engine.compare(engine.encode(tests[chosen]), [level[chosen] for level in halves])

        once(0)
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            once(done)
            done += batch
        return done / (time.perf_counter() - started)

    kept, new = ({batch: rate(batch, new=each) for batch in (1, BATCH)} for each in (False, True))
    return Alone(kept, new, decode + 1 / kept[1])


def rows_of(
    server: str, url: str, path: str, samples: Sequence[Sample], clients: Clients, seconds: float
) -> Iterator[Row]:
    """Measure every way to ask a server."""
    kinds = {"new": with_new_golden, "again": with_golden, "kept": with_golden_id}
    if server != "service":
        del kinds["again"]  # it encodes every golden that is sent
    asked = [
        (kind, [make(path, each) for each in samples], count, 1) for kind, make in kinds.items() for count in CLIENTS
    ]
    if server == "service":
        asked += [("board", [board(f"{path}_batch", samples)], count, len(samples)) for count in CLIENTS]
    for kind, calls, count, pairs in asked:
        if pairs == 1:
            clients.drive(url, calls, count, seconds=WARM_SECONDS)
        load = clients.drive(url, calls, count, seconds=seconds)
        bad = {status: number for status, number in load.statuses.items() if status != 200}
        assert not bad and not load.wrong, (server, kind, count, bad, load.wrong)
        yield Row(server, kind, count, len(load.latencies) * pairs / load.seconds, load)


def compare(bundle: str, samples: Sequence[Sample], threads: int, clients: Clients, chosen: argparse.Namespace) -> None:
    """Measure engine, service and peer, and print the table."""
    seconds = chosen.seconds
    before = measure_engine(bundle, samples, threads, seconds)
    rows = []
    with service(bundle, samples, threads=threads, proxy=chosen.proxy) as url:
        rows += rows_of("service", url, f"/v1/models/{MODEL}/inspect", samples, clients, seconds)
    with peer(bundle, samples, threads) as url:
        rows += rows_of("LitServe", url, "/predict", samples, clients, seconds)
    after = measure_engine(bundle, samples, threads, seconds)
    alone = {kind: _mean(getattr(before, kind), getattr(after, kind)) for kind in ("new", "kept")}
    pair_ms = 500 * (before.pair_seconds + after.pair_seconds)
    print(f"\n{threads} thread{'s' * (threads > 1)} an engine; {machine()}; engine alone, pairs/s before and after:")
    for kind in ("kept", "new"):
        print(
            f"  golden {kind}: "
            + "; ".join(
                f"{getattr(before, kind)[batch]:.1f} and {getattr(after, kind)[batch]:.1f}, {batch} a call"
                for batch in (1, BATCH)
            )
        )
    print(
        "\n| golden | requests at once | pairs/s | of the engine alone | p50, ms | p95 | p99 | x LitServe | LitServe p50 | p99 |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    peers = {(row.kind, row.clients): row for row in rows if row.server != "service"}
    for row in rows:
        if row.server == "service":
            print(
                row.line(
                    max(alone["new" if row.kind == "new" else "kept"].values()), peers.get((row.kind, row.clients))
                )
            )
    one = next(row for row in rows if (row.server, row.kind, row.clients) == ("service", "kept", 1))
    print(
        f"\nadded to decoding and comparing at concurrency 1, golden kept: {one.percentiles[0] - pair_ms:.1f} ms on {pair_ms:.1f} ms"
    )
    cost = [1e3 * row.load.processor / len(row.load.latencies) for row in rows if row.kind != "board"]
    print(f"the client computes {min(cost):.2f} to {max(cost):.2f} ms a request")


def _mean(one: dict[int, float], other: dict[int, float]) -> dict[int, float]:
    return {batch: (one[batch] + other[batch]) / 2 for batch in one}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="Of each measurement.")
    cpus = os.cpu_count() or 1
    parser.add_argument(
        "--threads", type=int, nargs="*", default=sorted({max(1, cpus - 1), cpus}), help="Of the engines."
    )
    parser.add_argument("--backbone", default=FAN)
    parser.add_argument("--options", action="store_true", help="Measure Ray Serve's options instead.")
    parser.add_argument("--faults", action="store_true", help="Kill and swap under load instead.")
    parser.add_argument("--requests", type=int, default=10_000, help="Under faults, and of the memory.")
    parser.add_argument("--proxy", choices=("auto", "haproxy", "ray"), default="auto", help="As of `changenet serve`.")
    parser.add_argument("--keep", type=Path, help="Folder for boards and bundles, so that another run finds them.")
    chosen = parser.parse_args()
    if chosen.options:
        from serving_options import run as run_options

        run_options(chosen)
        return
    if chosen.faults:
        from serving_faults import run as run_faults

        run_faults(chosen)
        return
    print(f"{machine()}; {chosen.backbone}, {SIZE} px, fp32", flush=True)
    with workplace(chosen.keep) as folder, Clients() as clients:
        boards = write_boards(folder / "boards", BOARD)
        bundle = write_bundle(folder / chosen.backbone.replace("/", "-"), chosen.backbone, boards)
        samples = judged(bundle, boards)
        print(f"closest scores of two pairs: {closest(samples):.1e}", flush=True)
        for threads in chosen.threads:
            compare(bundle, samples, threads, clients, chosen)


if __name__ == "__main__":
    main()
