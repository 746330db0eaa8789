"""What engines and precisions give on a GPU, and how much of the GPU they use.

    .venv/bin/python benchmarks/engines_gpu.py [--networks NAME ...] [--rows NAME ...] [--batches 1 32 256]

The baseline is that of `benchmarks/engines.py`: a plain network in eager PyTorch, float32, two passes. Every call begins
with uint8 pictures in the host's memory and ends with scores there, as in serving. A row is a process of its own. The
share of the peak is what the multiply-accumulates of a pair (steps merged, as the engines run them) come to at that
speed, beside the product of two large matrices on the same GPU in the same format (float32 without TF32). A row, or a
batch, that does not run here says why.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from engines import (
    BASELINE,
    BF16,
    COMPILED,
    EAGER,
    NETWORKS,
    apart,
    build,
    fastest,
    machine,
    plain_work,
    size_of,
    steps,
)

from changenet.errors import ChangeNetError

COMPILED_BF16, GRAPH = "PyTorch bf16, torch.compile", "PyTorch bf16, CUDA graph"
ONNX = "ONNX Runtime CUDA fp32"
TENSORRT, TENSORRT_FP16 = "TensorRT fp32", "TensorRT fp16"
ROWS = (BASELINE, EAGER, BF16, COMPILED, COMPILED_BF16, GRAPH, ONNX, TENSORRT, TENSORRT_FP16)
FORMATS = {**dict.fromkeys((BF16, COMPILED_BF16, GRAPH), "bfloat16"), TENSORRT_FP16: "float16"}
SIDE = 8192  # of the matrices that show the peak

Score = Callable[[Any, Any], object]


def main() -> None:
    """Measure and print."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--rows", nargs="*", default=ROWS, choices=ROWS)
    parser.add_argument("--batches", nargs="*", type=int, default=(1, 32, 256))
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "There is no GPU here that PyTorch can use.\n")
    print(f"Machine: {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}; {machine()}\n")
    peaks = {each: apart(peak, each) for each in ("float32", "bfloat16", "float16")}
    rates = ", ".join(f"{each} {rate / 1e12:.0f}" for each, rate in peaks.items())
    print(f"Products of large matrices, tera multiply-accumulates/s: {rates}\n")
    for name in chosen.networks:
        table(name, chosen, peaks)


def table(name: str, chosen: argparse.Namespace, peaks: dict[str, float]) -> None:
    """Print the table of a network with one light."""
    work = apart(multiply_accumulates, name)
    print(f"| `{name}`, {work / 1e9:.2f} billion multiply-accumulates a pair | ", end="")
    print(" | ".join(f"batch {size}" for size in chosen.batches))
    print(f"|---|{'---|' * len(chosen.batches)}")
    plain: dict[int, float | str] = {}
    for row in dict.fromkeys((BASELINE, *chosen.rows)):
        found: dict[int, float | str] = apart(visit, row, name, chosen.batches)
        if row == BASELINE:
            plain = found
        rate = peaks[FORMATS.get(row, "float32")]
        cells = []
        for size, seconds in found.items():
            base = plain[size]
            if isinstance(seconds, str):
                cells.append(seconds)
                continue
            ratio = f"x {base / seconds:.2f}" if isinstance(base, float) else "no baseline"
            cells.append(f"{size / seconds:.0f} pairs/s, {ratio}, {work * size / seconds / rate:.0%} of peak")
        print(f"| {row} | {' | '.join(cells)} |", flush=True)
    print(flush=True)


def peak(kind: str) -> float:
    """Return multiply-accumulates a second of a product of two large matrices."""
    import torch

    first, second = torch.randn(2, SIDE, SIDE, device="cuda").to(getattr(torch, kind))

    def work() -> None:
        first @ second
        torch.cuda.synchronize()

    rate: float = SIDE**3 / fastest(work)
    return rate


def multiply_accumulates(name: str) -> int:
    """Return those of one pair: two pictures encoded, the golden prepared, and the comparison."""
    encode, prepare, compare = steps(name)[0]
    return 2 * encode + prepare + compare


def visit(row: str, name: str, batches: tuple[int, ...]) -> dict[int, float | str]:
    """Return the seconds of the fastest call by batch, measured in this process, or why there are none."""
    random = np.random.default_rng(1)
    found: dict[int, float | str] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            score = scorer(row, name, max(batches), Path(folder))
        except (ChangeNetError, RuntimeError) as error:
            return dict.fromkeys(batches, reason(error))
        for size in batches:
            test, golden = random.integers(0, 256, (2, size, 3, *size_of(name, 1)), dtype=np.uint8)
            try:
                found[size] = fastest(lambda test=test, golden=golden: score(test, golden))  # type: ignore[misc]
            except (ChangeNetError, RuntimeError) as error:  # memory that is missing, above all
                found[size] = reason(error)
    return found


def reason(error: Exception) -> str:
    """Return the first line of what went wrong, for a cell of a table."""
    return f"{type(error).__name__}: {str(error).splitlines()[0][:100]}".replace("|", "/")


def scorer(row: str, name: str, largest: int, folder: Path) -> Score:
    """Return what scores a batch of pictures."""
    from changenet.engines.torch import TorchEngine
    from changenet.model.merging import merged

    network = build(name, 1)
    if row == BASELINE:
        plain = plain_work(network.cuda(), device="cuda")
        return lambda test, golden: plain(test, golden)()
    if row in (ONNX, TENSORRT, TENSORRT_FP16):
        return bundled(row, network, largest, folder)
    precision = "bf16" if row in FORMATS else "fp32"
    compiled = row in (COMPILED, COMPILED_BF16)
    engine = TorchEngine(merged(network, in_place=True), device="cuda", precision=precision, compiled=compiled)
    return recorded(engine) if row == GRAPH else engine.score


def bundled(row: str, network: Any, largest: int, folder: Path) -> Score:
    """Return the score of an engine that runs the graphs of a bundle."""
    from changenet.data.lights import PictureLayout
    from changenet.description import ModelDescription, Threshold
    from changenet.engines import load_engine
    from changenet.export.onnx import export_bundle
    from changenet.export.tensorrt import find_source, generate
    from changenet.tensorrt.build import BuildSettings
    from changenet.training.checkpoint import Checkpoint

    height, width = network.image_size
    layout = PictureLayout(width=width, height=height)
    description = ModelDescription(network=network.arguments, layout=layout, threshold=Threshold(0.5))
    bundle = folder / "bundle"
    export_bundle(Checkpoint(description, network.state_dict()), bundle)
    runtime = "onnxruntime" if row == ONNX else "tensorrt"
    settings = BuildSettings(precision="fp16" if row == TENSORRT_FP16 else "fp32", batch=(1, largest, largest))
    if row != ONNX:
        generate(find_source(str(bundle)), settings, str(folder / "pair.engine"))
    engine, _, _ = load_engine(str(bundle), engine=runtime, device="cuda")
    return engine.score


def recorded(engine: Any) -> Score:
    """Return a score whose kernels were recorded once for each batch size and are started in one go."""
    import torch

    graphs: dict[int, tuple[Any, Any, Any, Any]] = {}

    def record(test: Any, golden: Any) -> tuple[Any, Any, Any, Any]:
        inputs = [torch.from_numpy(each).cuda() for each in (test, golden)]

        def forward() -> Any:
            with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
                return engine.network(*(engine.network.normalise(each) for each in inputs))

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # lets libraries choose and allocate before anything is recorded
            for _ in range(3):
                forward()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = forward()
        return graph, *inputs, output

    def score(test: Any, golden: Any) -> object:
        if len(test) not in graphs:
            graphs[len(test)] = record(test, golden)
        graph, test_there, golden_there, output = graphs[len(test)]
        test_there.copy_(torch.from_numpy(test))
        golden_there.copy_(torch.from_numpy(golden))
        graph.replay()
        return engine.scores(output.float().cpu().numpy())

    return score


if __name__ == "__main__":
    main()
