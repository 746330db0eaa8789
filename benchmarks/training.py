"""How fast training is, beside a plain reference loop that does the same work as the vendor's trainer does it.

    .venv/bin/python benchmarks/training.py [--backbone NAME] [--size 128] [--pairs 400] [--epochs 3] [--rounds 2]

Everything trains the recipe of `specs/light.yaml` on generated boards: same network, seeds, batches and augmentation,
and so the same number of drawn pairs. The reference encodes test and golden one after the other, prepares every picture
with Pillow each time it is drawn, and computes in float32. Each part has a process of its own; the rounds, each with
another seed, visit all parts in turn. Speed is pairs/s of the fastest epoch (without validation): other work on the
machine disturbs that least. On a GPU everything runs there; `--peak` (TFLOP/s) then adds the share of it that is used.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from changenet import factory
from changenet.data.pairs import PairSource
from changenet.data.randomness import generator
from changenet.data.sampling import WeightedBatchSampler
from changenet.evaluation.curves import auroc, operating_points
from changenet.model.network import ChangeNet
from changenet.spec import Experiment, load_spec
from changenet.synthetic import Request, write_dataset
from changenet.training.loop import train_epoch
from changenet.training.memory import keep_freed_memory
from ray_jobs import cluster, train
from ray_jobs.console import out

SPEC = Path(__file__).parents[1] / "specs" / "light.yaml"
THREADS = os.cpu_count() or 1
STEPS = 4  # of forward and backward alone, after one more to warm up
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

ONE, TWO = "1 worker of 1 thread, bf16-mixed", "2 workers of 1 thread, bf16-mixed"
REFERENCE = f"reference loop, {THREADS} threads, 32-true"
RUNS = {
    f"1 worker of {THREADS} threads, 32-true": ["train.precision=32-true"],
    f"1 worker of {THREADS} threads, bf16-mixed": ["train.precision=bf16-mixed"],
    ONE: ["train.precision=bf16-mixed", "train.ray.num_workers=1", "train.ray.resources_per_worker={CPU: 1}"],
    TWO: ["train.precision=bf16-mixed", "train.ray.num_workers=2", "train.ray.resources_per_worker={CPU: 1}"],
}


@dataclass(frozen=True)
class Result:
    """Pairs/s of each epoch, the validation AUROC at the end, and achieved TFLOP/s where those were counted."""

    speeds: list[float]
    auroc: float | None = None
    teraflops: float | None = None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="timm/tf_efficientnet_lite0", help="others start without weights")
    for name, value in (("size", 128), ("pairs", 400), ("epochs", 3), ("rounds", 2), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device, by its maker")
    chosen = parser.parse_args()
    os.environ.update(cluster.ENVIRONMENT)  # the reference's threads wait as ours do
    results: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(folder, Request(pairs=chosen.pairs, size=chosen.size))
        overrides = recipe(Path(folder), chosen)
        for number in range(chosen.rounds):
            here = [*overrides, f"train.seed={chosen.seed + number}"]
            parts: list[tuple[Callable[..., dict[str, Result]], tuple[Any, ...]]] = [
                (reference, (here,)),
                *((forward_and_backward, (here, precision, THREADS)) for precision in ("32-true", "bf16-mixed")),
                *([] if DEVICE.type == "cuda" else [(one_and_two_processes, (here,))]),
                (loader, (here,)),
                (workers, (here, f"{folder}/results/{number}")),
            ]
            for part, arguments in parts:
                print(f"{time.strftime('%H:%M:%S')} round {number + 1}: {part.__name__}", file=sys.stderr)
                for name, result in apart(part, *arguments).items():
                    print(f"{name}: {result}", file=sys.stderr)
                    results.setdefault(name, []).append(result)
    report(results, chosen)


def recipe(folder: Path, chosen: argparse.Namespace) -> list[str]:
    """Return the recipe's overrides for the boards in a folder; all that is not for training validates."""
    files = [(folder / f"{split}.csv").read_text(encoding="utf-8").splitlines() for split in ("val", "test", "infer")]
    rows = [files[0][0], *(row for lines in files for row in lines[1:])]
    (folder / "validation.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    data = "dataset.classify"
    bundled = chosen.backbone == "timm/tf_efficientnet_lite0"
    return [
        f"model.backbone={{type: {chosen.backbone}, pretrained_backbone_path: {'bundled' if bundled else 'null'}}}",
        f"{data}.train_dataset={{csv_path: {folder}/train.csv, images_dir: {folder}/images}}",
        f"{data}.validation_dataset={{csv_path: {folder}/validation.csv, images_dir: {folder}/images}}",
        f"{data}.image_ext=.jpg",
        f"{data}.image_width={chosen.size}",
        f"{data}.image_height={chosen.size}",
        f"train.num_epochs={chosen.epochs}",
        f"train.validation_interval={chosen.epochs}",
        f"train.checkpoint_interval={chosen.epochs}",
        "train.optim.warmup_steps=10",
        "train.tensorboard.enabled=false",
    ]


def apart(part: Callable[..., dict[str, Result]], *arguments: Any) -> dict[str, Result]:
    """Run a part in a process of its own: some settings of memory and threads hold for a whole process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(part, *arguments).result()


def workers(overrides: list[str], folder: str) -> dict[str, Result]:
    """Train with Ray Train as `changenet train` does, in one local Ray."""
    import ray

    results = {}
    out.quiet = True
    cluster.connect("local")
    try:
        for number, (name, changes) in enumerate(RUNS.items()):
            if name == TWO and DEVICE.type == "cuda" and torch.cuda.device_count() < 2:
                continue
            train.run(str(SPEC), [*overrides, *changes, f"results_dir={folder}/{number}"])
            with Path(folder, str(number), "train", "metrics.csv").open(encoding="utf-8") as file:
                epochs = list(csv.DictReader(file))
            results[name] = Result([float(each["pairs_per_second"]) for each in epochs], float(epochs[-1]["val_auroc"]))
    finally:
        ray.shutdown()
    return results


def loader(overrides: list[str]) -> dict[str, Result]:
    """Read and augment the training batches, and nothing else."""
    experiment = load_spec(SPEC, overrides).experiment
    batches = factory.training_loader(experiment, threads=THREADS)
    epochs = range(experiment.train.num_epochs)
    speeds = [rate(len(batch["row"]) for batch in batches.epoch(epoch)) for epoch in epochs]
    return {"loader alone": Result(speeds)}


def one_and_two_processes(overrides: list[str]) -> dict[str, Result]:
    """Return what one process of one thread computes, and what two do side by side: the most that two workers can give."""
    results = {}
    for name, processes in (("one process", 1), ("two processes", 2)):
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            asked = [pool.submit(forward_and_backward, overrides, "bf16-mixed", 1) for _ in range(processes)]
            found = [result for each in asked for result in each.result().values()]
        speeds = [sum(together) for together in zip(*(each.speeds for each in found), strict=True)]
        results[f"forward and backward alone, {name} of 1 thread, bf16-mixed"] = Result(speeds)
    return results


def forward_and_backward(overrides: list[str], precision: str, threads: int) -> dict[str, Result]:
    """Train on one batch that is in memory, again and again."""
    experiment, network = prepare(overrides)
    torch.set_num_threads(threads)
    keep_freed_memory()
    stateful = factory.make_stateful(experiment, network, steps_per_epoch=STEPS, device=DEVICE)
    size, side = experiment.batch_size("train"), network.image_size
    pictures = torch.randint(256, (2, size, 3, *side), dtype=torch.uint8)
    batch = dict(zip(("test", "golden"), pictures, strict=True)) | {"label": torch.arange(size) % 2}
    batch["row"] = torch.arange(size)

    def epoch(steps: int) -> Iterator[int]:
        train_epoch(
            network,
            [batch] * steps,
            normalise=network.normalise,
            loss=factory.make_loss(experiment),
            optimizer=stateful.optimizer,
            schedule=stateful.schedule,
            scaler=stateful.scaler,
            device=DEVICE,
            precision=precision,
        )
        yield size * steps

    with FlopCounterMode(display=False) as counter:
        rate(epoch(1))
    speeds = [rate(epoch(STEPS)) for _ in range(experiment.train.num_epochs)]
    teraflops = counter.get_total_flops() / size * max(speeds) / 1e12
    return {f"forward and backward alone, {threads} threads, {precision}": Result(speeds, teraflops=teraflops)}


def reference(overrides: list[str]) -> dict[str, Result]:
    """Train with the plain loop."""
    experiment, network = prepare(overrides)
    loss = factory.make_loss(experiment)
    training = PlainPairs(experiment, "train", network)
    is_defect, data = training.source.annotations.is_defect, experiment.dataset.classify
    size, seed = experiment.batch_size("train"), experiment.train.seed
    sampler = WeightedBatchSampler(is_defect, ratio=data.fpratio_sampling, batch_size=size, seed=seed)
    stateful = factory.make_stateful(experiment, network, steps_per_epoch=len(sampler), device=DEVICE)

    def epoch(number: int) -> Iterator[int]:
        sampler.set_epoch(number)
        training.epoch = number
        for test, golden, label in DataLoader(training, batch_sampler=sampler, num_workers=data.workers):
            value = loss(two_passes(network, test.to(DEVICE), golden.to(DEVICE)), label.to(DEVICE))
            value.backward()
            stateful.optimizer.step()
            stateful.optimizer.zero_grad()
            stateful.schedule.step()
            yield len(label)

    speeds = [rate(epoch(number)) for number in range(experiment.train.num_epochs)]
    network.eval()
    scores = []
    validation = PlainPairs(experiment, "validation", network)
    with torch.no_grad():
        for test, golden, _ in DataLoader(validation, batch_size=size, num_workers=data.workers):
            scores.append(network.score(two_passes(network, test.to(DEVICE), golden.to(DEVICE))).cpu())
    points = operating_points(torch.cat(scores).numpy(), validation.source.annotations.is_defect)
    return {REFERENCE: Result(speeds, auroc(points))}


def two_passes(network: ChangeNet, test: Tensor, golden: Tensor) -> Tensor:
    """Return the logits of normalised pictures: one encoder call for the tests, one for the goldens."""
    assert network.pyramid is not None
    tests, goldens = (network.pyramid.embed(network.backbone(picture)) for picture in (test, golden))
    return network.compare(tests, network.prepare_golden(goldens))


class PlainPairs(Dataset[tuple[Tensor, Tensor, int]]):
    """Pairs that are opened, resized, augmented and normalised picture by picture with Pillow, goldens each time too."""

    def __init__(self, experiment: Experiment, split: Any, network: ChangeNet) -> None:
        self.source: PairSource = factory.pair_source(experiment, split, factory.picture_layout(experiment))
        self.epoch, self.seed, self.training = 0, experiment.train.seed, split == "train"
        self.config = experiment.dataset.classify.augmentation_config
        self.side = network.image_size
        self.mean, self.std = (torch.tensor(network.arguments[name]).view(3, 1, 1) for name in ("mean", "std"))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int | tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        row, place = index if isinstance(index, tuple) else (index, 0)
        files = self.source.test_paths(row)[0], self.source.golden_paths(row)[0][0]
        pair = [Image.open(file).convert("RGB").resize(self.side[::-1], Image.Resampling.BILINEAR) for file in files]
        if self.training:
            pair = self.augment(pair, generator("reference", seed=self.seed, epoch=self.epoch, rank=place, row=row))
        test, golden = (torch.from_numpy(np.array(each).transpose(2, 0, 1)) / 255 for each in pair)
        return (
            (test - self.mean) / self.std,
            (golden - self.mean) / self.std,
            int(self.source.annotations.is_defect[row]),
        )

    def augment(self, pair: list[Image.Image], random: np.random.Generator) -> list[Image.Image]:
        """Mirror and turn both alike, and move the golden, as often as the recipe says."""
        flip, turn, shift = self.config.random_flip, self.config.random_rotate, self.config.random_shift
        if random.random() < flip.hflip_probability:
            pair = [each.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for each in pair]
        if random.random() < flip.vflip_probability:
            pair = [each.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for each in pair]
        if random.random() < turn.rotate_probability:
            angle = float(random.choice(turn.angle_list))
            pair = [each.rotate(angle) for each in pair]
        if random.random() < shift.probability:
            most = shift.max_pixels
            wide = Image.fromarray(np.pad(np.asarray(pair[1]), ((most, most), (most, most), (0, 0)), mode="edge"))
            left, top = random.integers(2 * most + 1, size=2).tolist()
            pair = [pair[0], wide.crop((left, top, left + self.side[1], top + self.side[0]))]
        return pair


def prepare(overrides: list[str]) -> tuple[Experiment, ChangeNet]:
    """Return the spec and its fresh network on the device, seeded as a training worker is."""
    experiment = load_spec(SPEC, overrides).experiment
    torch.set_num_threads(THREADS)
    factory.seed_process(experiment, rank=0)
    return experiment, factory.make_network(experiment).to(DEVICE).train()


def rate(pairs: Iterator[int]) -> float:
    """Return pairs/s of work that says how many it has done."""
    began = time.perf_counter()
    done = sum(pairs)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return done / (time.perf_counter() - began)


def report(results: dict[str, list[Result]], chosen: argparse.Namespace) -> None:
    """Print the table and the ratios."""
    best = {name: max(max(each.speeds) for each in rounds) for name, rounds in results.items()}
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else processor()
    print(f"Machine: {THREADS} cores ({device}), torch {torch.__version__}")
    print(f"{chosen.backbone}, {chosen.size} px, {chosen.rounds} round(s) of {chosen.epochs} epochs\n")
    print("| | pairs/s | x reference | validation AUROC, by seed |\n|---|---|---|---|")
    for name, rounds in results.items():
        scores = ", ".join(f"{each.auroc:.3f}" for each in rounds if each.auroc is not None)
        print(f"| {name} | {best[name]:.1f} | {best[name] / best[REFERENCE]:.2f} | {scores} |")
    if TWO in best:
        print(f"\nTwo workers over one: {best[TWO] / best[ONE]:.2f}")
    for name, rounds in results.items():
        achieved = max((each.teraflops for each in rounds if each.teraflops), default=None)
        if achieved is not None:
            share = f", {100 * achieved / chosen.peak:.0f} % of the peak" if chosen.peak else ""
            print(f"{name}: {achieved:.3f} TFLOP/s{share}")


def processor() -> str:
    """Return the processor's name, where Linux tells it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return "processor unknown"


if __name__ == "__main__":
    main()
