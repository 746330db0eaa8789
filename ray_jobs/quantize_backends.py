"""What each backend of `changenet quantize` makes of a network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from changenet.errors import SpecError
from changenet.evaluation.candidate import Candidate
from changenet.evaluation.comparison import Comparison
from changenet.factory.quantization import calibration_pairs, quantization_rules
from changenet.model.merging import merged
from changenet.model.network import ChangeNet
from changenet.quantization import modelopt, torchao
from changenet.quantization.file import QuantizedCheckpoint
from changenet.quantization.layers import candidates, choose_layers, static_candidates
from changenet.spec import Experiment
from changenet.training.checkpoint import Checkpoint, package_versions
from ray_jobs.quantize_comparison import shown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Quantized:
    """What a backend made of a network.

    Args:
        checkpoint: What is written.
        float_graphs: Of the network of floats, by file name; None: the backend needed none.
    """

    checkpoint: QuantizedCheckpoint
    float_graphs: Mapping[str, bytes] | None = None

    def compared(self, comparison: Comparison) -> Quantized:
        """Return a copy whose checkpoint says how well it agrees with the network."""
        return replace(self, checkpoint=self.checkpoint.compared(comparison.agreement, comparison.max_error))


def graphs_of(checkpoint: QuantizedCheckpoint, path: str) -> Mapping[str, bytes]:
    """Return the graphs that run a quantized network, by file name; none where PyTorch does (raises as `qdq_graphs`).

    Args:
        checkpoint: Those of ModelOpt are traced now.
        path: Where it was written.
    """
    if checkpoint.backend != "modelopt.pytorch":
        return checkpoint.graphs
    from changenet.export.qdq import qdq_graphs

    logger.info("Tracing %s.", checkpoint.description.network["backbone"])
    try:
        return qdq_graphs(checkpoint)
    except Exception:
        logger.warning("%s is written, and runs in PyTorch; it has no graphs, and was not compared.", path)
        raise


def candidate_of(checkpoint: QuantizedCheckpoint, graphs: Mapping[str, bytes]) -> Candidate:
    """Return what serves: it is judged and measured."""
    if graphs:
        return Candidate.in_onnxruntime(graphs, checkpoint.precision, checkpoint.description)
    return Candidate.in_pytorch(checkpoint, checkpoint.precision)


def _torchao(experiment: Experiment, checkpoint: Checkpoint, network: ChangeNet) -> Quantized:
    layers = _layers(experiment, candidates(network, torchao.quantizable))
    torchao.quantize_weights(network, layers)
    return Quantized(_described(experiment, checkpoint, layers, state=torchao.take_apart(network, layers)))


def _modelopt(experiment: Experiment, checkpoint: Checkpoint, network: ChangeNet) -> Quantized:
    network = merged(network)
    layers = _layers(experiment, static_candidates(network, modelopt.quantizable))
    pairs, rows = calibration_pairs(experiment, checkpoint.description)

    def run(watched: ChangeNet) -> None:
        for batch in shown("Calibrating", pairs, rows):
            watched(*(watched.normalise(torch.from_numpy(pictures)) for pictures in batch))

    entropy = experiment.quantize.algorithm == "entropy"
    done = modelopt.quantize_layers(network, layers, lambda _: run(network), entropy=entropy)
    done_layers = remaining(layers, done, network)
    return Quantized(_described(experiment, checkpoint, done_layers, state=modelopt.take_apart(network)))


def _onnxruntime(experiment: Experiment, checkpoint: Checkpoint, network: ChangeNet) -> Quantized:
    from changenet.export.graphs import assemble
    from changenet.export.int8 import quantizable, quantize_parts
    from changenet.export.trace import trace_parts

    layers = _layers(experiment, static_candidates(network, quantizable))
    pairs, rows = calibration_pairs(experiment, checkpoint.description)
    logger.info("Tracing %s.", checkpoint.description.network["backbone"])
    network = merged(network)
    floats = trace_parts(network)
    entropy = experiment.quantize.algorithm == "entropy"
    parts, done = quantize_parts(floats, layers, shown("Calibrating", pairs, rows), entropy=entropy)
    before, after = (
        {name: graph.SerializeToString(deterministic=True) for name, graph in assemble(each).items()}
        for each in (floats, parts)
    )
    return Quantized(_described(experiment, checkpoint, remaining(layers, done, network), graphs=after), before)


def _layers(experiment: Experiment, acceptable: dict[str, nn.Module]) -> dict[str, str]:
    return choose_layers(
        acceptable,
        rules=quantization_rules(experiment),
        skip=experiment.quantize.skip_names,
        backend=experiment.quantize.backend,
    )


def remaining(layers: dict[str, str], done: Collection[str], network: ChangeNet) -> dict[str, str]:
    """Return the layers that were quantized, and log why the others were not.

    Args:
        layers: That the rules chose.
        done: Names of those that were quantized.
        network: As it ran.

    Raises:
        SpecError: None was.
    """
    reasons = {name: _why_missing(network.get_submodule(name)) for name in layers if name not in done}
    missing = ", ".join(f"{name} ({reason})" for name, reason in reasons.items())
    if not done:
        what = f"the rules choose only layers that are not there when the network runs: {missing}"
        raise SpecError(what, where="quantize.layers", fix="Write a rule for other layers.")
    if missing:
        logger.info("Not quantized: %s.", missing)
    return {name: dtype for name, dtype in layers.items() if name in done}


def _why_missing(module: nn.Module) -> str:
    return "merged into the layer behind it" if isinstance(module, nn.Identity) else "never runs"


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


BACKENDS: dict[str, Callable[[Experiment, Checkpoint, ChangeNet], Quantized]] = {
    "torchao": _torchao,
    "modelopt.pytorch": _modelopt,
    "onnxruntime": _onnxruntime,
}
