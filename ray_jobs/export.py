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
from changenet.engines.tolerance import FP32
from changenet.errors import EngineError, Problem, SpecError
from changenet.export.deepstream import deepstream_files
from changenet.export.onnx import export_bundle, export_quantized
from changenet.export.output import Exported
from changenet.factory.quantization import validation_pairs
from changenet.quantization.file import QuantizedCheckpoint, load_model
from changenet.spec import Experiment
from changenet.training.checkpoint import Checkpoint
from ray_jobs.action import Action
from ray_jobs.checkpoint_path import checkpoint_path
from ray_jobs.console import out, result_table

logger = logging.getLogger(__name__)

DEEPSTREAM_BACKEND = "modelopt.pytorch"  # whose graphs TensorRT runs
TAO_OPSET = 17  # its default, which its specs write out
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
        onnx_file = experiment.export.onnx_file or (action.path("model.onnx") if has_graphs else None)
        to: dict[str, Any] = {
            "folder": action.path("bundle"),
            "onnx_file": onnx_file,
            "beside": _deepstream(experiment, checkpoint, onnx_file),
            "batch_size": experiment.export.batch_size,
            "encryption_key": experiment.secret(),
            "overwrite": overwrite,
        }
        opset = experiment.export.opset_version
        if isinstance(checkpoint, QuantizedCheckpoint):
            exported = export_quantized(checkpoint, force=force, **to)
            written = "opset_version" in experiment.export.model_fields_set
            if written and opset not in (exported.opset, TAO_OPSET):
                logger.warning("export.opset_version: %d has no effect: a quantized checkpoint has its own.", opset)
        else:
            logger.info("Tracing %s.", checkpoint.description.network["backbone"])
            pairs = validation_pairs(experiment, checkpoint.description, COMPARED)
            exported = export_bundle(checkpoint, opset=opset, validation=pairs, **to)
        parity = exported.parity
        if exported.precision != "fp32" and (parity.agreement or 0) < parity.min_agreement:
            engine = "onnxruntime" if has_graphs else "torch"
            logger.warning("It decides otherwise too often: engine auto does not take it, name the engine %s.", engine)
        rows = [(path, f"{size / 1e6:,.2f}") for path, size in exported.files.items()]
        title = "Export" if exported.opset is None else f"Export, opset {exported.opset}"
        out.print(result_table(title, ("file", "MB"), rows))
        out.print(f"{_agreement(exported)}; {time.perf_counter() - started:.1f} s.", highlight=False)
    return 0


def _deepstream(
    experiment: Experiment, checkpoint: Checkpoint | QuantizedCheckpoint, onnx_file: str | None
) -> dict[str, str]:
    """Return path to text of the files that `export.serialize_nvdsinfer` asks for, which lie beside the ONNX file."""
    if not experiment.export.serialize_nvdsinfer:
        return {}
    key, precision = "export.serialize_nvdsinfer", "fp32"
    if experiment.secret():
        raise EngineError("DeepStream cannot read an encrypted ONNX file", where=key, fix="Leave encryption_key out.")
    if isinstance(checkpoint, QuantizedCheckpoint):
        precision = checkpoint.precision
        if checkpoint.backend != DEEPSTREAM_BACKEND:
            what = f"DeepStream runs graphs with TensorRT, which cannot run what {checkpoint.backend} quantized"
            raise EngineError(what, where=key, fix=f"Quantize with backend: {DEEPSTREAM_BACKEND}.")
    assert onnx_file is not None  # only torchao leaves none
    name, batch_size = onnx_file.rpartition("/")[2], experiment.export.batch_size
    files = deepstream_files(checkpoint.description, onnx_name=name, batch_size=batch_size, precision=precision)
    return {storage.join(storage.parent(onnx_file), each): text for each, text in files.items()}


def _agreement(exported: Exported) -> str:
    share = exported.parity.agreement
    if exported.precision == "fp32":
        decisions = "" if share is None else f", and {share:.2%} of the decisions on validation pairs"
        return f"Scores agree with the checkpoint to {exported.parity.max_error:.1e} (allowed {FP32:.0e}){decisions}"
    return f"{exported.precision}: " + ("not compared" if share is None else f"{share:.2%} of the decisions agree")


def _sizes(experiment: Experiment, description: ModelDescription) -> Iterator[Problem]:
    """Yield the sizes that the spec writes and that are not those of the checkpoint."""
    _, height, width = description.layout.shape
    written = {"input_height": experiment.export.input_height, "input_width": experiment.export.input_width}
    for (key, value), real in zip(written.items(), (height, width), strict=True):
        if value is not None and value != real:
            what = f"is {value}, but the checkpoint's pictures (all lights together) have {real}"
            yield Problem(what, where=f"export.{key}", fix="Leave the key out.")
