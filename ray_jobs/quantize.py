"""`changenet quantize`: layers of a trained network in 8 bits, held against the network. Needs no Ray and no GPU."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from changenet import storage
from changenet.adoption import SpecDescribes
from changenet.agreement import contradictions
from changenet.errors import EngineError, SpecError
from changenet.evaluation.cost import BATCHES
from changenet.evaluation.report.wording import number
from changenet.factory.quantization import calibration_pairs, quantization_rules
from changenet.model.network import ChangeNet
from changenet.quantization import modelopt, torchao
from changenet.quantization.file import QuantizedCheckpoint, save_quantized
from changenet.quantization.layers import candidates, choose_layers
from changenet.spec import Experiment
from changenet.training.checkpoint import Checkpoint, build_network, load_checkpoint, package_versions
from ray_jobs.action import Action
from ray_jobs.checkpoint_path import checkpoint_path
from ray_jobs.console import out, result_table
from ray_jobs.quantize_comparison import PAIR_GRAPH, Candidates, Graphs, shown

logger = logging.getLogger(__name__)


def run(spec: str, overrides: Sequence[str] = ()) -> int:
    """Write `quantized_model_BACKEND.pth`, `quantized_model.onnx` where there are graphs, and `comparison.json`.

    Args:
        spec: The spec file; of a checkpoint of ours it needs only `quantize`, `encryption_key` and sets of pairs.
        overrides: `key=value` each.

    Raises:
        SpecError: The spec is wrong, contradicts the checkpoint, or its rules leave nothing to quantize.
        DataError: The pairs to calibrate or to compare with are wrong.
        CheckpointError: The checkpoint cannot be used.
        EngineError: The backend is not available.
    """
    with Action.load("quantize", spec, overrides) as action:
        experiment = action.experiment
        backend = experiment.quantize.backend
        if backend not in BACKENDS:
            what = "needs other versions of onnx and onnxruntime than this program, and cannot run beside it"
            raise EngineError(
                f"{backend!r} {what}",
                where="quantize.backend",
                fix="Use modelopt.pytorch, which writes ONNX graphs for TensorRT too, or onnxruntime.",
            )
        started = time.perf_counter()
        path, key = checkpoint_path(experiment, "quantize"), experiment.secret()
        checkpoint = load_checkpoint(path, encryption_key=key, describe=SpecDescribes(experiment, path))
        problems = list(contradictions(experiment, checkpoint.description, path))
        if problems:
            raise SpecError(problems)
        quantized, graphs, float_graphs = BACKENDS[backend](experiment, checkpoint, build_network(checkpoint))
        candidates = Candidates(checkpoint, quantized, graphs, float_graphs)
        quantized, figures, judged = candidates.decide(experiment)
        files = _save(action, quantized, graphs, key)
        figures = {"checkpoint": path, "backend": backend, "layers": quantized.layers, **figures}
        figures["engines"] = candidates.measured(judged)
        storage.write_text(action.path("comparison.json"), json.dumps(figures, indent=2, allow_nan=False) + "\n")
        _tell(quantized, figures, files)
        logger.info("Quantized in %.1f s.", time.perf_counter() - started)
    return 0


Quantized = tuple[QuantizedCheckpoint, Graphs, Graphs]  # what is written, its graphs, and those of floats, by file name


def _torchao(experiment: Experiment, checkpoint: Checkpoint, network: ChangeNet) -> Quantized:
    layers = _layers(experiment, network, torchao.quantizable)
    torchao.quantize_weights(network, layers)
    return _described(experiment, checkpoint, layers, state=torchao.take_apart(network, layers)), {}, {}


def _modelopt(experiment: Experiment, checkpoint: Checkpoint, network: ChangeNet) -> Quantized:
    from changenet.export.qdq import qdq_graphs

    layers = _layers(experiment, network, modelopt.quantizable)
    pairs, rows = calibration_pairs(experiment, checkpoint.description)

    def run(watched: ChangeNet) -> None:
        for batch in shown("Calibrating", pairs, rows):
            watched(*(watched.normalise(torch.from_numpy(pictures)) for pictures in batch))

    entropy = experiment.quantize.algorithm == "entropy"
    done = modelopt.quantize_layers(network, layers, lambda _: run(network), entropy=entropy)
    quantized = _described(experiment, checkpoint, done, state=modelopt.take_apart(network))
    if quantized.precision != "int8":
        logger.warning("Only int8 becomes ONNX: quantized_model.onnx is not written.")
        return quantized, {}, {}
    logger.info("Tracing %s.", checkpoint.description.network["backbone"])
    return quantized, qdq_graphs(quantized), {}


def _onnxruntime(experiment: Experiment, checkpoint: Checkpoint, network: ChangeNet) -> Quantized:
    from changenet.export.graphs import assemble
    from changenet.export.int8 import quantizable, quantize_parts
    from changenet.export.trace import trace_parts
    from changenet.model.merging import merged

    layers = _layers(experiment, network, quantizable)
    pairs, rows = calibration_pairs(experiment, checkpoint.description)
    logger.info("Tracing %s.", checkpoint.description.network["backbone"])
    floats = trace_parts(merged(network))
    parts, done = quantize_parts(
        floats, layers, shown("Calibrating", pairs, rows), entropy=experiment.quantize.algorithm == "entropy"
    )
    before, after = (
        {name: graph.SerializeToString(deterministic=True) for name, graph in assemble(each).items()}
        for each in (floats, parts)
    )
    chosen = {name: dtype for name, dtype in layers.items() if name in done}
    return _described(experiment, checkpoint, chosen, graphs=after), after, before


BACKENDS: dict[str, Callable[[Experiment, Checkpoint, ChangeNet], Quantized]] = {
    "torchao": _torchao,
    "modelopt.pytorch": _modelopt,
    "onnxruntime": _onnxruntime,
}


def _layers(experiment: Experiment, network: ChangeNet, accepts: Callable[[Any], bool]) -> dict[str, str]:
    return choose_layers(
        candidates(network, accepts),
        rules=quantization_rules(experiment),
        skip=experiment.quantize.skip_names,
        backend=experiment.quantize.backend,
    )


def _described(
    experiment: Experiment, checkpoint: Checkpoint, layers: dict[str, str], **content: Any
) -> QuantizedCheckpoint:
    from changenet.export.onnx import weights_digest

    return QuantizedCheckpoint(
        description=checkpoint.description,
        backend=experiment.quantize.backend,
        layers=layers,
        versions=package_versions(),
        min_agreement=experiment.quantize.min_agreement,
        weights_sha256=weights_digest(checkpoint.state),
        **content,
    )


def _save(action: Action, quantized: QuantizedCheckpoint, graphs: dict[str, bytes], key: str | None) -> list[str]:
    from changenet import encryption

    files = [action.path(f"quantized_model_{quantized.backend.partition('.')[0]}.pth")]
    save_quantized(files[0], quantized, encryption_key=key)
    if graphs:
        files.append(action.path("quantized_model.onnx"))
        with encryption.write_model(files[1], key) as file:
            file.write(graphs[PAIR_GRAPH])
    return files


def _tell(quantized: QuantizedCheckpoint, figures: dict[str, Any], files: list[str]) -> None:
    rows = [
        (
            f"{row['engine']} {row['precision']}",
            f"{row['size_mb']:,.2f}",
            *(f"{milliseconds:,.1f}" for milliseconds in row["latency_ms"].values()),
            f"{row['pairs_per_second']:,.1f}",
            "" if row["memory_mb"] is None else f"{row['memory_mb']:,.0f}",
            number(row.get("auroc")),
        )
        for row in figures["engines"]
    ]
    columns = ("engine", "MB", *(f"ms, batch {batch}" for batch in BATCHES), "pairs/s", "memory, MB", "AUROC")
    out.print(result_table(f"{len(quantized.layers)} layers in {quantized.precision}", columns, rows))
    for path in files:
        out.print(path, soft_wrap=True)
    if quantized.agreement is None:
        logger.warning("The spec names no validation, test or training set: no decisions were compared.")
        return
    out.print(f"{quantized.agreement:.2%} of the decisions on {figures['pairs']:,} pairs are those of the checkpoint.")
    if not quantized.agrees:
        logger.warning(
            "That is less than quantize.min_agreement (%g): try other layers or entropy. Export refuses it.",
            quantized.min_agreement,
        )
