"""Export: a checkpoint becomes a bundle, or nothing is written."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import onnx
import torch

from changenet.engines.onnxruntime import OnnxRuntimeEngine, import_onnxruntime
from changenet.engines.torch import TorchEngine
from changenet.errors import CheckpointError, EngineError
from changenet.export.graphs import export_graphs, fix_batch, supported_opset
from changenet.export.output import Exported, Facts, check_outputs, write_outputs
from changenet.export.parity import check_parity, with_agreement
from changenet.export.qdq import qdq_graphs
from changenet.export.trace import MIN_OPSET
from changenet.manifest import NETWORK, Parity
from changenet.model.merging import merged
from changenet.quantization.bundled import tag_of, tensors_of
from changenet.quantization.file import QuantizedCheckpoint
from changenet.training.checkpoint import Checkpoint, build_network


def export_bundle(
    checkpoint: Checkpoint,
    folder: str | os.PathLike[str],
    *,
    onnx_file: str | os.PathLike[str] | None = None,
    opset: int = MIN_OPSET,
    batch_size: int = -1,
    encryption_key: str | None = None,
    overwrite: bool = False,
    beside: Mapping[str, str] = MappingProxyType({}),
    validation: Iterable[tuple[Any, Any]] | None = None,
) -> Exported:
    """Write the bundle of a checkpoint, after its graphs have agreed with the PyTorch network.

    Runs on the CPU alone.

    Args:
        checkpoint: What to export.
        folder: Of the bundle: path or URI.
        onnx_file: Where a copy of `pair.onnx` goes; None = nowhere.
        opset: Below `MIN_OPSET` it is raised, with a message.
        batch_size: Of `pair.onnx`; -1 = any.
        encryption_key: Encrypts every model file.
        overwrite: Replace what an earlier export wrote.
        beside: Path to text of files that go with the copy.
        validation: Real tests uint8 (B, 3, H, W) and goldens ([B, N,] 3, H, W), batch by batch, on which decisions are
            compared, too (see `with_agreement`).

    Raises:
        CheckpointError: The weights do not fit, or something is there that may not be replaced, or would lie in the bundle.
        EngineError: ONNX Runtime is not installed, or a graph does not agree with the network: nothing is written.
    """
    import_onnxruntime()
    check_outputs(folder, onnx_file, beside, overwrite=overwrite)
    description = checkpoint.description
    network = build_network(checkpoint)
    split = merged(network)
    opset = supported_opset(opset)
    graphs = export_graphs(split, opset=opset, batch_size=batch_size)
    engine = OnnxRuntimeEngine(graphs.__getitem__, description=description)
    reference = TorchEngine(network)
    fix = "Try another export.opset_version."
    parity = check_parity(engine, TorchEngine(split), description, fix=fix, truth=reference, pair_batch=batch_size)
    parity = with_agreement(parity, engine, reference, description, validation)
    return write_outputs(
        graphs,
        Facts(description, weights_digest(checkpoint.state), "fp32", parity, opset, batch_size),
        folder,
        scored_by=reference,
        onnx_file=onnx_file,
        beside=beside,
        encryption_key=encryption_key,
        overwrite=overwrite,
    )


def export_quantized(
    checkpoint: QuantizedCheckpoint,
    folder: str | os.PathLike[str],
    *,
    onnx_file: str | os.PathLike[str] | None = None,
    batch_size: int = -1,
    encryption_key: str | None = None,
    overwrite: bool = False,
    beside: Mapping[str, str] = MappingProxyType({}),
    force: bool = False,
) -> Exported:
    """Write the bundle of a quantized checkpoint, whose decisions are held against those of the one it was made from.

    Args:
        checkpoint: What to export; the other arguments are those of `export_bundle`.
        folder: Of the bundle.
        onnx_file: Of the copy of `pair.onnx`.
        batch_size: Of `pair.onnx`.
        encryption_key: Encrypts every model file.
        overwrite: Replace what an earlier export wrote.
        beside: Path to text of files that go with the copy.
        force: Also if it decides otherwise more often than was allowed.

    Raises:
        CheckpointError: Something is there that may not be replaced, or would lie in the bundle, or ONNX graphs are asked of one
            that PyTorch alone runs.
        EngineError: The package that runs it is not installed, the pair graph does not give the scores of the others, or its
            decisions agree too seldom, and `force` is not given.
    """
    if not checkpoint.agrees and not force:
        what = "the quantized network was compared with nothing"
        if checkpoint.agreement is not None:
            wanted = f"quantize.min_agreement was {checkpoint.min_agreement:g}"
            what = f"{checkpoint.agreement:.2%} of the quantized network's decisions are the checkpoint's; {wanted}"
        raise EngineError(what, fix="Quantize fewer layers, or add --force.")
    check_outputs(folder, onnx_file, beside, overwrite=overwrite)
    description, precision = checkpoint.description, checkpoint.precision
    known = checkpoint.max_error is not None and math.isfinite(checkpoint.max_error)
    parity = Parity(checkpoint.max_error if known else None, checkpoint.agreement, checkpoint.min_agreement)
    facts = Facts(description, checkpoint.weights_sha256, precision, parity, None, batch_size)
    again = "Quantize it again."
    to: dict[str, Any] = {
        "onnx_file": onnx_file,
        "beside": beside,
        "encryption_key": encryption_key,
        "overwrite": overwrite,
    }
    if checkpoint.needs_torch:
        if onnx_file is not None or batch_size > 0:
            what = "a checkpoint quantized by torchao has no ONNX graphs"
            raise CheckpointError(what, fix="Leave onnx_file and batch_size out: its bundle runs in PyTorch.")
        engine = TorchEngine.from_checkpoint(checkpoint)
        check_parity(engine, engine, description, fix=again)
        facts = facts._replace(tag=tag_of(checkpoint))
        return write_outputs({NETWORK: tensors_of(checkpoint)}, facts, folder, scored_by=engine, **to)
    import_onnxruntime()
    graphs = dict(checkpoint.graphs) or qdq_graphs(checkpoint)
    pair = onnx.load_from_string(graphs["pair.onnx"])
    if batch_size > 0:
        fix_batch(pair, batch_size)
        graphs["pair.onnx"] = pair.SerializeToString(deterministic=True)
    opset = next(each.version for each in pair.opset_import if not each.domain)
    graph_engine = OnnxRuntimeEngine(graphs.__getitem__, description=description, precision=precision)
    check_parity(graph_engine, graph_engine, description, fix=again, pair_batch=batch_size)
    facts = facts._replace(opset=opset, tag={"backend": checkpoint.backend})
    return write_outputs(graphs, facts, folder, scored_by=graph_engine, **to)


def weights_digest(state: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 of weights: name, type, shape and bytes of each, in order; independent of any file format."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
