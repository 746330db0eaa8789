"""`changenet quantize`: the weights of a trained network in 8 bits. Needs no Ray and no GPU."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from changenet import storage
from changenet.adoption import SpecDescribes
from changenet.agreement import contradictions
from changenet.errors import EngineError, SpecError
from changenet.factory import quantization_rules
from changenet.quantization import torchao
from changenet.quantization.file import QuantizedCheckpoint, save_quantized
from changenet.quantization.layers import candidates, choose_layers
from changenet.spec import Experiment
from changenet.training.checkpoint import Checkpoint, build_network, load_checkpoint, package_versions
from ray_jobs.action import Action
from ray_jobs.console import out, result_table
from ray_jobs.trained import checkpoint_path

logger = logging.getLogger(__name__)


def run(spec: str, overrides: Sequence[str] = ()) -> int:
    """Write `RESULTS/quantize/quantized_model_torchao.pth`.

    Args:
        spec: The spec file; a checkpoint of ours needs only `quantize` and `encryption_key` of it.
        overrides: `key=value` each.

    Raises:
        SpecError: The spec is wrong, contradicts the checkpoint, or its rules leave nothing to quantize.
        CheckpointError: The checkpoint cannot be used.
        EngineError: The backend is not available.
    """
    with Action.load("quantize", spec, overrides) as action:
        experiment = action.experiment
        _check_backend(experiment)
        started = time.perf_counter()
        path = checkpoint_path(experiment, "quantize")
        key = experiment.secret()
        checkpoint = load_checkpoint(path, encryption_key=key, describe=SpecDescribes(experiment, path))
        problems = list(contradictions(experiment, checkpoint.description, path))
        if problems:
            raise SpecError(problems)
        target = action.path("quantized_model_torchao.pth")
        quantized = _torchao(experiment, checkpoint)
        save_quantized(target, quantized, encryption_key=key)
        rows = [(file, f"{storage.size(file) / 1e6:,.2f}") for file in (path, target)]
        out.print(result_table(f"{len(quantized.layers)} layers in {quantized.precision}", ("file", "MB"), rows))
        logger.info("Quantized in %.1f s.", time.perf_counter() - started)
    return 0


def _check_backend(experiment: Experiment) -> None:
    backend = experiment.quantize.backend
    if backend != "torchao":
        what = f"quantize.backend {backend!r} is not available in this version"
        raise EngineError(what, fix="Use torchao.")


def _torchao(experiment: Experiment, checkpoint: Checkpoint) -> QuantizedCheckpoint:
    network = build_network(checkpoint)
    layers = choose_layers(
        candidates(network, torchao.KINDS),
        rules=quantization_rules(experiment),
        skip=experiment.quantize.skip_names,
        backend="torchao",
    )
    torchao.quantize_weights(network, layers)
    return QuantizedCheckpoint(
        description=checkpoint.description,
        backend="torchao",
        layers=layers,
        state=torchao.take_apart(network, layers),
        versions=package_versions(),
    )
