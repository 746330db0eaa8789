"""`changenet quantize`: layers of a trained network in 8 bits, held against the network. Needs no Ray and no GPU."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from changenet import storage
from changenet.adoption import SpecDescribes
from changenet.agreement import contradictions
from changenet.data.calibration import Pairs, batches
from changenet.data.pairs import PairSource
from changenet.engines import engine_of
from changenet.errors import EngineError, SpecError
from changenet.evaluation.comparison import compare_engines
from changenet.evaluation.cost import BATCHES, measure
from changenet.evaluation.report.wording import number
from changenet.factory.quantization import calibration_pairs, quantization_rules, sampled_pairs
from changenet.model.network import ChangeNet
from changenet.quantization import modelopt, torchao
from changenet.quantization.file import QuantizedCheckpoint, save_quantized
from changenet.quantization.layers import candidates, choose_layers
from changenet.spec import Experiment
from changenet.training.checkpoint import Checkpoint, build_network, load_checkpoint, package_versions
from ray_jobs.action import Action
from ray_jobs.console import out, progress, result_table
from ray_jobs.trained import checkpoint_path

logger = logging.getLogger(__name__)

BATCH = 8
COMPARED = 1000  # pairs at most
PAIR_GRAPH = "pair.onnx"
NOT_COMPARED = {"agreement": None, "max_score_difference": None}  # the gate of an export holds them to 1e-4


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
        quantized, figures = _compare(experiment, checkpoint, quantized, graphs)
        files = _save(action, quantized, graphs, key)
        figures = {"checkpoint": path, "backend": backend, "layers": quantized.layers, **figures}
        figures["engines"] = _engines(checkpoint, quantized, graphs, float_graphs, figures.pop("judged"))
        storage.write_text(action.path("comparison.json"), json.dumps(figures, indent=2, allow_nan=False) + "\n")
        _tell(quantized, figures, files)
        logger.info("Quantized in %.1f s.", time.perf_counter() - started)
    return 0


Graphs = dict[str, bytes]
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
        for batch in _shown("Calibrating", pairs, rows):
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
        floats, layers, _shown("Calibrating", pairs, rows), entropy=experiment.quantize.algorithm == "entropy"
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


def _pairs_to_compare(experiment: Experiment, checkpoint: Checkpoint) -> tuple[str, PairSource, list[int]] | None:
    """Return the first of validation, test and training set that the spec names, and rows of it."""
    data = experiment.dataset.classify
    for split in ("validation", "test", "train"):
        if getattr(data, f"{split}_dataset").csv_path:
            pairs, rows = sampled_pairs(experiment, split, checkpoint.description, COMPARED)
            return pairs.annotations.path, pairs, rows
    return None


def _shown(title: str, pairs: Pairs, rows: Sequence[int]) -> Iterator[tuple[Any, Any]]:
    with progress() as bar:
        task = bar.add_task(title, total=len(rows))
        for test, golden in batches(pairs, rows, size=BATCH):
            yield test, golden
            bar.advance(task, len(test))


def _compare(
    experiment: Experiment, checkpoint: Checkpoint, quantized: QuantizedCheckpoint, graphs: Graphs
) -> tuple[QuantizedCheckpoint, dict[str, Any]]:
    """Return the quantized checkpoint, which now says how well it agrees, and that part of `comparison.json`."""
    compared_with = _pairs_to_compare(experiment, checkpoint)
    if compared_with is None:
        return quantized, {"judged": ({}, {})}
    name, pairs, rows = compared_with
    description = checkpoint.description
    reference, candidate = engine_of(checkpoint), engine_of(replace(quantized, graphs=graphs))
    found = compare_engines(reference, candidate, _shown("Comparing", pairs, rows), description)
    quantized = quantized.compared(found.agreement, found.max_error)
    is_defect = None if pairs.annotations.labels is None else pairs.annotations.is_defect[rows]
    difference = found.max_difference
    return quantized, {
        "set": name,
        "pairs": len(rows),
        "threshold": description.threshold.value,
        "agreement": found.agreement,
        "min_agreement": quantized.min_agreement,
        "agrees": quantized.agrees,
        "max_score_difference": difference if np.isfinite(difference) else None,
        "judged": (
            {**found.reference.figures(description, is_defect), "agreement": 1.0, "max_score_difference": 0.0},
            {
                **found.candidate.figures(description, is_defect),
                "agreement": found.agreement,
                "max_score_difference": difference if np.isfinite(difference) else None,
            },
        ),
    }


def _engines(
    checkpoint: Checkpoint,
    quantized: QuantizedCheckpoint,
    graphs: Graphs,
    float_graphs: Graphs,
    judged: tuple[dict[str, Any], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Return a row an engine and precision: what it decides, and what it costs."""
    runtime = "onnxruntime" if graphs else "torch"
    rows: list[tuple[str, str, Checkpoint | QuantizedCheckpoint, int, dict[str, Any]]] = [
        ("torch", "fp32", checkpoint, _weights(checkpoint), judged[0])
    ]
    if float_graphs:  # of the same scores, to tell what the runtime gives from what the integers give
        floats = replace(quantized, graphs=float_graphs, layers={"": "fp32"})
        rows.append((runtime, "fp32", floats, len(float_graphs[PAIR_GRAPH]), {**judged[0], **NOT_COMPARED}))
    size = len(graphs[PAIR_GRAPH]) if graphs else _weights(quantized)
    rows.append((runtime, quantized.precision, replace(quantized, graphs=graphs), size, judged[1]))
    found = []
    for engine, precision, model, size, figures in rows:
        logger.info("Measuring %s %s.", engine, precision)
        known = {"engine": engine, "precision": precision, "size_mb": round(size / 1e6, 3)}
        found.append({**known, **measure(model).to_dict(), **figures})
    return found


def _weights(checkpoint: Checkpoint | QuantizedCheckpoint) -> int:
    return sum(tensor.nbytes for tensor in checkpoint.state.values())


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
