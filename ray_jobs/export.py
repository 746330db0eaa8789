"""`changenet export`: ONNX and the bundle that serves, checked against the checkpoint. Needs no Ray and no GPU."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

from changenet import storage
from changenet.adoption import SpecDescribes
from changenet.agreement import contradictions
from changenet.description import ModelDescription
from changenet.errors import CheckpointError, EngineError, Problem, SpecError
from changenet.export.deepstream import deepstream_files
from changenet.export.onnx import export_bundle, export_quantized
from changenet.export.output import Exported
from changenet.export.parity import TOLERANCE
from changenet.factory.quantization import validation_pairs
from changenet.quantization.file import QuantizedCheckpoint, load_model
from changenet.spec import Experiment
from ray_jobs.action import Action
from ray_jobs.checkpoint_path import checkpoint_path
from ray_jobs.console import out, result_table

logger = logging.getLogger(__name__)

COMPARED = 100  # validation pairs at most: every pair is scored twice


def run(spec: str, overrides: Sequence[str] = (), *, overwrite: bool = False, force: bool = False) -> int:
    """Write `RESULTS/export/bundle/` and `export.onnx_file`, or nothing where they do not agree with the checkpoint.

    Args:
        spec: The spec file; a checkpoint of ours needs only `export` and `encryption_key` of it.
        overrides: `key=value` each.
        overwrite: Replace an earlier export.
        force: Also a quantized checkpoint that decides otherwise too often.

    Raises:
        SpecError: The spec is wrong or contradicts the checkpoint.
        CheckpointError: The checkpoint cannot be used, or there are files that may not be replaced.
        EngineError: A graph does not give the checkpoint's scores, or DeepStream cannot feed the network.
    """
    with Action.load("export", spec, overrides) as action:
        experiment = action.experiment
        started = time.perf_counter()
        path = checkpoint_path(experiment, "export")
        describe = SpecDescribes(experiment, path)
        checkpoint = load_model(path, encryption_key=experiment.secret(), describe=describe)
        problems = [
            *contradictions(experiment, checkpoint.description, path),
            *_sizes(experiment, checkpoint.description),
        ]
        if problems:
            raise SpecError(problems)
        has_graphs = not (isinstance(checkpoint, QuantizedCheckpoint) and checkpoint.needs_torch)
        if experiment.export.serialize_nvdsinfer and not has_graphs:
            what = "DeepStream runs ONNX graphs, and a checkpoint quantized by torchao has none"
            raise EngineError(what, where="export.serialize_nvdsinfer", fix="Quantize with backend: onnxruntime.")
        to: dict[str, Any] = {
            "folder": action.path("bundle"),
            "onnx_file": experiment.export.onnx_file or (action.path("model.onnx") if has_graphs else None),
            "batch_size": experiment.export.batch_size,
            "encryption_key": experiment.secret(),
            "overwrite": overwrite,
        }
        beside = _deepstream(experiment, checkpoint.description, to["onnx_file"])
        if there := [] if overwrite else [each for each in beside if storage.exists(each)]:
            raise CheckpointError([Problem("exists", each, "Add --overwrite to replace it.") for each in there])
        if isinstance(checkpoint, QuantizedCheckpoint):
            exported = export_quantized(checkpoint, force=force, **to)
        else:
            logger.info("Tracing %s.", checkpoint.description.network["backbone"])
            pairs, missing = validation_pairs(experiment, checkpoint.description, COMPARED)
            opset = experiment.export.opset_version
            exported = export_bundle(checkpoint, opset=opset, validation=pairs, not_compared=missing, **to)
        for path, text in beside.items():
            storage.write_text(path, text)
            logger.info("DeepStream: %s", path)
        parity = exported.parity
        if exported.precision != "fp32" and (parity.agreement or 0) < parity.min_agreement:
            engine = "onnxruntime" if has_graphs else "torch"
            logger.warning("It decides otherwise too often: engine auto does not take it, name the engine %s.", engine)
        rows = [(path, f"{size / 1e6:,.2f}") for path, size in exported.files.items()]
        title = "Export" if exported.opset is None else f"Export, opset {exported.opset}"
        out.print(result_table(title, ("file", "MB"), rows))
        out.print(f"{_agreement(exported)}; {time.perf_counter() - started:.1f} s.", highlight=False)
    return 0


def _deepstream(experiment: Experiment, description: ModelDescription, onnx_file: str) -> dict[str, str]:
    """Return path to text of the files that `export.serialize_nvdsinfer` asks for, which lie beside the ONNX file."""
    if not experiment.export.serialize_nvdsinfer:
        return {}
    folder, _, name = onnx_file.rpartition("/")
    batch_size = experiment.export.batch_size
    files = deepstream_files(description, onnx_name=name, batch_size=batch_size)
    return {storage.join(folder or ".", each): text for each, text in files.items()}


def _agreement(exported: Exported) -> str:
    share = exported.parity.agreement
    if exported.precision == "fp32":
        decisions = "" if share is None else f", and {share:.2%} of the decisions on validation pairs"
        return (
            f"Scores agree with the checkpoint to {exported.parity.max_error:.1e} (allowed {TOLERANCE:.0e}){decisions}"
        )
    return f"{exported.precision}: " + ("not compared" if share is None else f"{share:.2%} of the decisions agree")


def _sizes(experiment: Experiment, description: ModelDescription) -> Iterator[Problem]:
    """Yield the sizes that the spec writes and that are not those of the checkpoint."""
    _, height, width = description.layout.shape
    written = {"input_height": experiment.export.input_height, "input_width": experiment.export.input_width}
    for (key, value), real in zip(written.items(), (height, width), strict=True):
        if value is not None and value != real:
            what = f"is {value}, but the checkpoint's pictures (all lights together) have {real}"
            yield Problem(what, where=f"export.{key}", fix="Leave the key out.")
