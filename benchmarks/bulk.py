"""Bulk scoring: is memory the same for ten times the rows, and what does a second worker bring.

    .venv/bin/python benchmarks/bulk.py [--rows 200] [--size 128] [--backbone timm/tf_efficientnet_lite0] [--batch 16]

Three runs, each in a process and a local Ray of its own: ROWS rows with one worker, ten times the rows with one, the same
with two; a worker has one CPU. Pictures are 1,000 generated pairs, and the rows of the CSV file name them in turn, so
goldens are kept as on a production line. The network is untrained; results are kept on the way as `inference` does.

Memory is private memory (RssAnon), sampled ten times a second: of the workers together, and of the driver what came on top
of its imports and the CSV file. The object store is what Ray says is in use. Speed is taken from the first result on, so
that starting Ray and opening the network do not count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from changenet.data.annotations import read_annotations
from changenet.data.lights import PictureLayout
from changenet.data.pairs import PairSource
from changenet.description import ModelDescription, Threshold
from changenet.model.network import ChangeNet
from changenet.synthetic import Request, write_dataset
from changenet.training.checkpoint import Checkpoint, save_checkpoint
from ray_jobs import cluster
from ray_jobs.score_parts import Columns, ScoreParts
from ray_jobs.scorer import ModelFile
from ray_jobs.scoring import score_rows
from ray_jobs.workers import Workers

MIB = 1 << 20
PAIRS = 1000
SPLITS = ("train", "val", "test", "infer")


class TimedParts(ScoreParts):
    """Notes when results come, too."""

    def __init__(self, folder: str, *, batch_size: int) -> None:
        super().__init__(folder, batch_size=batch_size, depends_on={})
        self.arrivals: list[tuple[float, int]] = []

    def add(self, block: Columns) -> None:
        """Keep the results, and the time."""
        self.arrivals.append((time.perf_counter(), len(block["row"])))
        super().add(block)

    @property
    def pairs_per_second(self) -> float:
        """From the first result to the last."""
        return sum(rows for _, rows in self.arrivals[1:]) / (self.arrivals[-1][0] - self.arrivals[0][0])


class Watch(threading.Thread):
    """The peaks of memory while a run lasts, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = private_bytes(os.getpid())
        self.driver = self.workers = self.store = 0
        self._over = threading.Event()

    def run(self) -> None:
        """Sample until `stop`."""
        import ray

        total = ray.cluster_resources()["object_store_memory"]
        for turn in itertools.count():
            if self._over.wait(0.1):
                return
            if turn % 10 == 0:
                workers = list(scorers())
                self.store = max(self.store, total - ray.available_resources().get("object_store_memory", total))
            self.driver = max(self.driver, private_bytes(os.getpid()) - self.before)
            self.workers = max(self.workers, sum(map(private_bytes, workers)))

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self.join()


def private_bytes(process: int) -> int:
    """Return the private memory of a process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon")), 0)


def scorers() -> Iterator[int]:
    """Yield the processes that score, below this one."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            names[int(folder.name)] = (folder / "cmdline").read_text()
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    for process, name in names.items():
        above = process
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid() and name.startswith("ray::MapWorker"):
            yield process


def measure(folder: Path, rows: int, workers: int, options: argparse.Namespace) -> dict[str, Any]:
    """Score `rows` rows on a local Ray and return the figures."""
    import ray.data

    lines = [line for split in SPLITS for line in (folder / f"{split}.csv").read_text().splitlines()[1:]]
    header = (folder / "train.csv").read_text().splitlines()[0]
    path = folder / f"rows{rows}.csv"
    path.write_text("\n".join([header, *itertools.islice(itertools.cycle(lines), rows)]) + "\n")
    source = PairSource(
        annotations=read_annotations(path),
        images_dir=folder / "images",
        image_ext=".jpg",
        layout=PictureLayout(width=options.size, height=options.size),
    )
    os.environ.update(cluster.ENVIRONMENT)
    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
    with tempfile.TemporaryDirectory() as name:
        parts = TimedParts(name, batch_size=options.batch)
        watch = Watch()
        watch.start()
        score_rows(
            source,
            model=ModelFile(str(folder / "model.pth")),
            batch_size=options.batch,
            workers=Workers((workers, workers), cpus=1),
            parts=parts,
        )
        watch.stop()
    ray.shutdown()
    return {
        "rows": rows,
        "workers": workers,
        "speed": parts.pairs_per_second,
        "each": watch.workers / workers / MIB,
        "driver": watch.driver / MIB,
        "store": watch.store / MIB,
    }


def write_network(path: Path, options: argparse.Namespace) -> None:
    """Write a checkpoint of an untrained network."""
    layout = PictureLayout(width=options.size, height=options.size)
    network = ChangeNet(backbone=options.backbone, image_size=layout.shape[1:], head="pool")
    description = ModelDescription(network=network.arguments, layout=layout, threshold=Threshold(0.5))
    save_checkpoint(str(path), Checkpoint(description, network.state_dict()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--backbone", default="timm/tf_efficientnet_lite0")
    parser.add_argument("--case", nargs=3, metavar=("FOLDER", "ROWS", "WORKERS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        folder, rows, workers = options.case
        print(json.dumps(measure(Path(folder), int(rows), int(workers), options)))
        return
    with tempfile.TemporaryDirectory() as name:
        write_dataset(name, Request(pairs=PAIRS, size=options.size))
        write_network(Path(name) / "model.pth", options)
        found = []
        for rows, workers in ((options.rows, 1), (10 * options.rows, 1), (10 * options.rows, 2)):
            command = [sys.executable, __file__, *sys.argv[1:], "--case", name, str(rows), str(workers)]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found.append(json.loads(answer.splitlines()[-1]))
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}; {options.backbone}, {options.size} px, "
        f"batch {options.batch}, fp32\n"
    )
    print("| rows | workers | a worker's memory, MiB | the driver's growth, MiB | object store, MiB | pairs/s |")
    print("|---|---|---|---|---|---|")
    for case in found:
        each, speed = (f"{case[name]:,.0f} (x {case[name] / found[0][name]:.2f})" for name in ("each", "speed"))
        others = " | ".join(f"{case[name]:,.1f}" for name in ("driver", "store"))
        print(f"| {case['rows']:,} | {case['workers']} | {each} | {others} | {speed} |")


if __name__ == "__main__":
    main()
