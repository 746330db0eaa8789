"""`changenet quantize`: layers of a trained network in 8 bits, held against the network. Needs no Ray and no GPU."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from changenet import encryption, storage
from changenet.adoption import SpecDescribes
from changenet.agreement import contradictions
from changenet.engines.onnxruntime import import_onnxruntime
from changenet.errors import DataError, EngineError, SpecError
from changenet.evaluation.candidate import PAIR_GRAPH, Candidate
from changenet.evaluation.report.html import COMPARISON_COLUMNS, comparison_cells
from changenet.export.graphs import export_graphs
from changenet.model.merging import merged
from changenet.quantization.file import QuantizedCheckpoint, save_quantized
from changenet.training.checkpoint import Checkpoint, build_network, load_checkpoint
from changenet.training.precision import computes_in
from ray_jobs.action import Action
from ray_jobs.checkpoint_path import checkpoint_path
from ray_jobs.console import out, result_table
from ray_jobs.quantize_backends import BACKENDS, candidate_of, graphs_of
from ray_jobs.quantize_comparison import COMPARISON, comparison_beside, comparison_figures, draw_sample, judge, short

logger = logging.getLogger(__name__)

GRAPH = "quantized_model.onnx"
NOT_COMPARED: Mapping[str, Any] = MappingProxyType({"engines": []})


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
        description = checkpoint.description
        problems = list(contradictions(experiment, description, path))
        if problems:
            raise SpecError(problems)
        sample = draw_sample(experiment, description)  # what is wrong with it is said before the long work
        quantized = BACKENDS[backend](experiment, checkpoint, build_network(checkpoint))
        _keep_other(action, backend)
        storage.remove(action.path(GRAPH))  # of an earlier run: what lies here must be of one kind
        # Whatever happens to graphs and comparison, this is there.
        files = _save(action, path, quantized.checkpoint, key)
        graphs = graphs_of(quantized.checkpoint, files[0])
        if graphs:
            files.append(action.path(GRAPH))
            with encryption.write_model(files[1], key) as file:
                file.write(graphs[PAIR_GRAPH])
        candidate = candidate_of(quantized.checkpoint, graphs)
        floats = list(_floats(checkpoint, quantized.float_graphs))
        candidates = [*floats, *_on_gpu([*floats, candidate]), candidate]
        comparisons = judge(candidates, sample) if sample else []
        if comparisons:
            quantized = quantized.compared(comparisons[-1])
        figures = comparison_figures(candidates, comparisons, sample)
        _save(action, path, quantized.checkpoint, key, figures)
        _tell(quantized.checkpoint, figures, files)
        logger.info("Quantized in %.1f s.", time.perf_counter() - started)
    return 0


def _floats(checkpoint: Checkpoint, graphs: Mapping[str, bytes] | None) -> Iterator[Candidate]:
    """Yield what runs the network of floats here: it tells what a runtime gives from what fewer bits give.

    Args:
        checkpoint: Of it.
        graphs: Where it has been traced already.
    """
    yield Candidate.in_pytorch(checkpoint, "fp32")
    if computes_in(torch.bfloat16, torch.device("cpu")):
        yield Candidate.in_pytorch(checkpoint, "bf16")
    else:
        logger.info("PyTorch in bf16 is left out: this processor has no instructions for it.")
    try:
        import_onnxruntime()
    except EngineError as error:
        logger.info("ONNX Runtime is left out: %s", error)
        return
    if graphs is None:
        logger.info("Tracing %s, to compare with ONNX Runtime in fp32.", checkpoint.description.network["backbone"])
        graphs = export_graphs(merged(build_network(checkpoint)))
    yield Candidate.in_onnxruntime(graphs, "fp32", checkpoint.description)


def _on_gpu(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """Yield those that run on the GPU too, where there is one."""
    if not torch.cuda.is_available():
        return
    for candidate in candidates:
        there = replace(candidate, device="cuda")
        try:
            there.open()
        except EngineError as error:
            logger.info("%s %s on the GPU is left out: %s", there.engine, there.precision, error)
        else:
            yield there


def _keep_other(action: Action, backend: str) -> None:
    """Give files that another backend shares with this one a name of its own: `comparison_torchao.json`."""
    try:
        other = str(json.loads(storage.read_text(action.path(COMPARISON)))["backend"])
    except (DataError, ValueError, TypeError, KeyError):
        return
    for name, kept in (COMPARISON, comparison_beside(other)), (GRAPH, f"quantized_model_{short(other)}.onnx"):
        if other != backend and storage.exists(action.path(name)):
            storage.rename(action.path(name), action.path(kept))
            logger.info("%s of the backend %s is called %s now.", name, other, kept)


def _save(
    action: Action, path: str, made: QuantizedCheckpoint, key: str | None, figures: Mapping[str, Any] = NOT_COMPARED
) -> list[str]:
    """Write what came of the checkpoint at `path`, and what is said of it; return the model file."""
    files = [action.path(f"quantized_model_{short(made.backend)}.pth")]
    save_quantized(files[0], made, encryption_key=key)
    comparison = {
        "checkpoint": path,
        "checkpoint_sha256": storage.file_sha256(path),
        "weights_sha256": made.weights_sha256,
        "artifact": Path(files[0]).name,
        "artifact_sha256": storage.file_sha256(files[0]),
        "backend": made.backend,
        "layers": made.layers,
        "min_agreement": made.min_agreement,
        "agrees": made.agrees,
        **figures,
    }
    storage.write_text(action.path(COMPARISON), json.dumps(comparison, indent=2, allow_nan=False) + "\n")
    return files


def _tell(quantized: QuantizedCheckpoint, figures: Mapping[str, Any], files: list[str]) -> None:
    # A column an engine: a row each would be wider than a terminal.
    names, *rows = zip(COMPARISON_COLUMNS, *map(comparison_cells, figures["engines"]), strict=True)
    out.print(result_table(f"{len(quantized.layers)} layers in {quantized.precision}", names, rows))
    out.print("Time is of this machine as it was: other work on it makes the figures larger.", soft_wrap=True)
    for path in files:
        out.print(path, soft_wrap=True)
    if quantized.agreement is None:
        return
    out.print(f"{quantized.agreement:.2%} of the decisions on {figures['pairs']:,} pairs are those of the checkpoint.")
    if not quantized.agrees:
        logger.warning(
            "That is less than quantize.min_agreement (%g): leave the first layers of the encoder in floats "
            "(quantize.skip_names), or try entropy. Export refuses it.",
            quantized.min_agreement,
        )
