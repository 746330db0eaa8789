"""What engines and precisions give beside a plain network in eager PyTorch, and what the seam gives.

    .venv/bin/python benchmarks/engines.py [--networks NAME ...] [--lights 1 4] [--trained NAME=CHECKPOINT=SPEC ...]

The baseline encodes test and golden one after the other, compares them by one convolution over both, and computes in
float32 in PyTorch's own memory layout; that is how such a network is written down first. Networks are untrained, as
large as TAO's defaults make them (256 channels, flatten head; C-RADIO and the light encoder with the pooled head).
A network is a process of its own for each row; rows take turns, a visit each, in as many rounds as asked for, and the fastest
call counts: other work on the machine disturbs that least. `golden kept` means that the golden went through encoder and
`prepare_golden` before, as in serving. Memory is the most that a row's process held, what Python and the libraries need
included.

`--trained` adds decision agreement: pairs of the test set of a spec, scored by a trained checkpoint in every
precision (int8 is calibrated on the spec's training set, as `changenet quantize` does it).
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault(
    "GOMP_SPINCOUNT", "20000"
)  # as in our workers: threads of PyTorch wait for each other, not for ever
THREADS = os.cpu_count() or 1
BATCHES = (1, 8)
SECONDS = 1.5  # of a visit, for each batch and way
LONG_SECONDS = 15  # of calls, after which fewer than three of them will do
BASELINE, EAGER, BF16 = "PyTorch eager, plain network", "PyTorch fp32", "PyTorch bf16"
COMPILED = "PyTorch fp32, torch.compile"
ONNX, INT8 = "ONNX Runtime fp32", "ONNX Runtime int8"
ROWS = (BASELINE, EAGER, BF16, COMPILED, ONNX, INT8)
FAN, LIGHT, RADIO = "fan_tiny_8_p4_hybrid", "timm/tf_efficientnet_lite0", "c_radio_v2_vit_base_patch16_224"
NETWORKS = (FAN, "fan_small_12_p4_hybrid", LIGHT, RADIO)
JUDGED = 400  # pairs at most, drawn without regard to their labels
CALIBRATION = 16  # pairs of noise: they set ranges, and time does not depend on those


@dataclass
class Times:
    """Seconds of the fastest call by (batch, golden kept), and the most memory in MB."""

    seconds: dict[tuple[int, bool], float] = field(default_factory=dict)
    memory: float = 0.0

    def join(self, other: Times) -> None:
        """Take the better of two visits."""
        for key, value in other.seconds.items():
            self.seconds[key] = min(value, self.seconds.get(key, value))
        self.memory = max(self.memory, other.memory)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--lights", nargs="*", type=int, default=[1, 4], choices=[1, 4])
    parser.add_argument("--rows", nargs="*", default=ROWS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--trained", nargs="*", default=[], metavar="NAME=CHECKPOINT=SPEC")
    chosen = parser.parse_args()
    print(f"Machine: {machine()}; {THREADS} threads\n")
    for name in chosen.networks:
        seam(name)
        for lights in chosen.lights:
            speed(name, lights, chosen)
    for each in chosen.trained:
        agreement(*each.split("=", 2))


def machine() -> str:
    """Return the processor and the versions."""
    import onnxruntime
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return f"{model}, {os.cpu_count()} cores; torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"


def size_of(name: str, lights: int) -> tuple[int, int]:
    """Return the sides of a picture: 128 px (224 for a ViT), four lights in a grid of two by two."""
    side = (224 if name == RADIO else 128) * (2 if lights == 4 else 1)
    return side, side


def build(name: str, lights: int) -> Any:
    """Return an untrained network whose norms have seen pictures."""
    import torch

    from changenet.model.network import ChangeNet

    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    head = "flatten" if name.startswith("fan") else "pool"
    return ChangeNet(backbone=name, image_size=size_of(name, lights), head=head).eval()


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a process of its own: its memory is its own then, and its threads."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def speed(name: str, lights: int, chosen: argparse.Namespace) -> None:
    """Print the table of a network."""
    found = {row: Times() for row in chosen.rows}
    graphs = apart(trace, name, lights, INT8 in chosen.rows) if {ONNX, INT8} & set(chosen.rows) else {}
    for _ in range(chosen.rounds):
        for row in chosen.rows:
            found[row].join(apart(visit, row, name, lights, graphs.get(row, {})))
    height, width = size_of(name, lights)
    print(f"| `{name}`, {width} x {height} px ({lights} light{'s' * (lights > 1)}) | ", end="")
    print(
        " | ".join(f"batch {size}, golden {'kept' if kept else 'encoded'}" for size in BATCHES for kept in (0, 1)),
        end="",
    )
    print(f" | memory, MB |\n|---|{'---|' * (2 * len(BATCHES) + 1)}")
    plain = found[BASELINE]
    for row, times in found.items():
        cells = []
        for size in BATCHES:
            for kept in (False, True):
                if (size, kept) not in times.seconds:
                    cells.append("")
                    continue
                seconds = times.seconds[size, kept]
                ratio = plain.seconds[size, False] / seconds
                cells.append(f"{1000 * seconds:.1f} ms, x {ratio:.2f}")
        print(f"| {row} | {' | '.join(cells)} | {times.memory:.0f}, x {times.memory / plain.memory:.2f} |")
    print(flush=True)


def trace(name: str, lights: int, integers: bool) -> dict[str, dict[str, bytes]]:
    """Return the graphs as export and quantize write them, by row and by file name."""
    from changenet.export.graphs import assemble
    from changenet.export.int8 import quantizable, quantize_parts
    from changenet.export.trace import trace_parts
    from changenet.model.merging import merged
    from changenet.quantization.layers import static_candidates

    network = build(name, lights)
    parts = trace_parts(merged(network))
    made = {ONNX: parts}
    if integers:
        layers = static_candidates(network, quantizable)
        random = np.random.default_rng(0)
        shape = (CALIBRATION // 4, 3, *network.image_size)
        noise = [tuple(random.integers(0, 256, (2, *shape), dtype=np.uint8)) for _ in range(4)]
        made[INT8], _ = quantize_parts(parts, layers, noise)
    return {
        row: {file: graph.SerializeToString() for file, graph in assemble(each).items() if file != "pair.onnx"}
        for row, each in made.items()
    }


def visit(row: str, name: str, lights: int, graphs: dict[str, bytes]) -> Times:
    """Measure one row in this process."""
    ways = works(row, name, lights, graphs)
    times = Times()
    random = np.random.default_rng(1)
    for size in BATCHES:
        test, golden = random.integers(0, 256, (2, size, 3, *size_of(name, lights)), dtype=np.uint8)
        for kept, way in enumerate(ways):
            if way is not None:
                times.seconds[size, bool(kept)] = fastest(way(test, golden))
    times.memory = peak_memory()
    return times


Way = Callable[[Any, Any], Callable[[], object]]


def works(row: str, name: str, lights: int, graphs: dict[str, bytes]) -> tuple[Way, Way | None]:
    """Return what makes the work of a batch: with the golden encoded, and with it kept."""
    if row == BASELINE:
        return plain_work(build(name, lights)), None
    if row in (EAGER, BF16, COMPILED):
        from changenet.engines.torch import TorchEngine
        from changenet.model.merging import merged

        precision = "bf16" if row == BF16 else "fp32"
        network = merged(build(name, lights), in_place=True)
        engine: Any = TorchEngine(network, threads=THREADS, precision=precision, compiled=row == COMPILED)
    else:
        engine = graph_engine(graphs)
        graphs.clear()  # the runtime has copied what it needs

    def kept(test: Any, golden: Any) -> Callable[[], object]:
        halves = engine.prepare_golden(engine.encode(golden))
        return lambda: engine.scores(engine.compare(engine.encode(test), halves))

    return (lambda test, golden: lambda: engine.score(test, golden)), kept


def graph_engine(graphs: dict[str, bytes]) -> Any:
    """Return the ONNX Runtime engine; what the description says beside the difference module does not matter to it."""
    from types import SimpleNamespace

    from changenet.engines.onnxruntime import OnnxRuntimeEngine

    description: Any = SimpleNamespace(difference_module="learnable", network={})
    return OnnxRuntimeEngine(graphs.__getitem__, description=description, threads=THREADS)


def plain_work(network: Any, *, device: str = "cpu") -> Way:
    """Return the baseline's work: two passes, and one convolution over test and golden together.

    The network is on the device already.
    """
    import torch
    from torch.nn import functional as F

    pyramid = network.pyramid
    joint = [
        torch.cat([module.test_half.weight, module.golden_half.weight], dim=1).detach() for module in pyramid.difference
    ]

    def forward(test: Any, golden: Any) -> Any:
        tests, goldens = (pyramid.embed(network.backbone(network.normalise(each))) for each in (test, golden))
        size = pyramid.fusion_size or tests[-1].shape[2:]
        carried = fused = None
        for level, module in enumerate(pyramid.difference):
            both = torch.cat([tests[level], goldens[level]], dim=1)
            found = F.relu(F.conv2d(both, joint[level], module.test_half.bias, padding=1))
            found = F.relu(module.mix(module.norm(found)))
            if carried is not None:
                found = found + pyramid._resize(carried, found.shape[2:])
            carried = found
            part = pyramid._resize(pyramid.fuse[level](found), size)
            fused = part if fused is None else fused + part
        return network.score(network.head(pyramid.fuse_norm(fused)))

    def work(test: Any, golden: Any) -> Callable[[], object]:
        @torch.inference_mode()
        def call() -> object:
            return forward(*(torch.from_numpy(each).to(device) for each in (test, golden))).cpu().numpy()

        return call

    return work


def fastest(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of the calls of a visit."""
    work()
    calls: list[float] = []
    while sum(calls) < SECONDS or (len(calls) < 3 and sum(calls) < LONG_SECONDS):
        began = time.perf_counter()
        work()
        calls.append(time.perf_counter() - began)
    return min(calls)


def peak_memory() -> float:
    """Return the most memory that this process held, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / 1e6


def seam(name: str) -> None:
    """Print what the three steps of a network cost, for one picture with one light."""
    operations, seconds = apart(steps, name)
    print(
        f"| `{name}`, 1 light | encode | prepare_golden | compare | pair | with a kept golden |\n|---|---|---|---|---|---|"
    )
    encode, prepare, compare = operations
    cells = (encode, prepare, compare, 2 * encode + prepare + compare, encode + compare)
    print(f"| multiply-accumulates, millions | {' | '.join(f'{each / 1e6:.0f}' for each in cells)} |")
    encode, prepare, compare = (1000 * each for each in seconds)
    cells = (encode, prepare, compare, 2 * encode + prepare + compare, encode + compare)
    print(f"| PyTorch fp32, ms | {' | '.join(f'{each:.1f}' for each in cells)} |\n", flush=True)


def steps(name: str) -> tuple[list[int], list[float]]:
    """Return multiply-accumulates and seconds of encode, prepare_golden and compare."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from changenet.model.merging import merged

    network = merged(build(name, 1))
    picture = torch.randn(1, 3, *network.image_size)
    operations, seconds = [], []
    with torch.no_grad():
        features = network.encode(picture)
        halves = network.prepare_golden(features)
        works: list[Callable[[], object]] = [
            lambda: network.encode(picture),
            lambda: network.prepare_golden(features),
            lambda: network.compare(features, halves),
        ]
        for work in works:
            # Attention as two products of matrices: the counter does not know every fused kernel.
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                work()
            operations.append(counter.get_total_flops() // 2)
            seconds.append(fastest(work))
    return operations, seconds


def agreement(name: str, checkpoint: str, spec: str) -> None:
    """Print how often engines and precisions decide as the checkpoint does in float32."""
    print(f"| {name}: decisions on the test set | agreement | largest score difference | AUROC |\n|---|---|---|---|")
    for row, cells in apart(judge, checkpoint, spec).items():
        print(f"| {row} | {' | '.join(cells)} |")
    print(flush=True)


def judge(path: str, spec: str) -> dict[str, tuple[str, str, str]]:
    """Return the cells of `agreement` by row."""
    from changenet.data.calibration import batches, drawn
    from changenet.engines.onnxruntime import OnnxRuntimeEngine
    from changenet.engines.torch import TorchEngine
    from changenet.evaluation.comparison import compare_engines
    from changenet.export.graphs import assemble
    from changenet.export.int8 import quantizable, quantize_parts
    from changenet.export.trace import trace_parts
    from changenet.factory.quantization import calibration_pairs, open_set
    from changenet.model.merging import merged
    from changenet.quantization.layers import static_candidates
    from changenet.spec import load_spec
    from changenet.training.checkpoint import build_network, load_checkpoint

    checkpoint, experiment = load_checkpoint(path), load_spec(Path(spec)).experiment
    description, network = checkpoint.description, build_network(checkpoint)
    floats = trace_parts(merged(network))
    shown, rows = calibration_pairs(experiment, description)
    layers = static_candidates(network, quantizable)
    integers, _ = quantize_parts(floats, layers, batches(shown, rows, size=8))
    engines: dict[str, Any] = {BF16: TorchEngine.from_checkpoint(checkpoint, precision="bf16")}
    for row, parts in ((ONNX, floats), (INT8, integers)):
        graphs = {file: graph.SerializeToString() for file, graph in assemble(parts).items()}
        engines[row] = OnnxRuntimeEngine(graphs.__getitem__, description=description)
    pairs, missing = open_set(experiment, description, ("test",))
    assert pairs is not None, missing
    rows = drawn(len(pairs), JUDGED)
    is_defect = pairs.annotations.is_defect[rows]
    cells = {}
    for row, engine in engines.items():
        found = compare_engines(TorchEngine(network), engine, batches(pairs, rows, size=8), description)
        figures = found.candidate.figures(description, is_defect)
        cells[row] = (f"{found.agreement:.2%} of {len(rows)}", f"{found.max_difference:.4f}", f"{figures['auroc']:.4f}")
    return cells


if __name__ == "__main__":
    main()
