"""Export to ONNX: a checkpoint becomes a bundle, or nothing is written."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import onnx
import onnxscript
import torch

from changenet import encryption, storage
from changenet.bundle import WEIGHTS, SelfTest, check_writable, write_bundle
from changenet.description import ModelDescription
from changenet.engines.interface import Engine
from changenet.engines.onnxruntime import OnnxRuntimeEngine, import_onnxruntime
from changenet.engines.torch import TorchEngine
from changenet.errors import CheckpointError, EngineError
from changenet.evaluation.comparison import compare_engines
from changenet.export.graphs import export_graphs, fix_batch, supported_opset
from changenet.export.parity import check_parity, make_pairs
from changenet.export.qdq import qdq_graphs
from changenet.export.trace import MIN_OPSET
from changenet.manifest import SELFTEST, EngineEntry, Manifest, Parity
from changenet.model.merging import merged
from changenet.quantization.file import QuantizedCheckpoint
from changenet.storage import sha256
from changenet.training.checkpoint import Checkpoint, build_network

SELFTEST_PAIRS = 2
_SELFTEST_SEED = 7


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Args:
        files: Path to size in bytes.
        opset: Of the graphs.
        parity: Agreement with the PyTorch network.
        precision: Of the graphs.
    """

    files: dict[str, int]
    opset: int
    parity: Parity
    precision: str


def export_bundle(
    checkpoint: Checkpoint,
    folder: str | os.PathLike[str],
    *,
    onnx_file: str | os.PathLike[str] | None = None,
    opset: int = MIN_OPSET,
    batch_size: int = -1,
    encryption_key: str | None = None,
    overwrite: bool = False,
    validation: Iterable[tuple[Any, Any]] | None = None,
    not_compared: str = "",
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
        validation: Real tests uint8 (B, 3, H, W) and goldens ([B, N,] 3, H, W), batch by batch, on which decisions are
            compared, too; None: on none.
        not_compared: Why on none, for the manifest.

    Raises:
        CheckpointError: The weights do not fit, or something is there that may not be replaced.
        EngineError: ONNX Runtime is not installed, or a graph does not agree with the network: nothing is written.
    """
    import_onnxruntime()
    _check_writable(folder, onnx_file, overwrite=overwrite)
    description = checkpoint.description
    network = build_network(checkpoint)
    split = merged(network)
    opset = supported_opset(opset)
    graphs = export_graphs(split, opset=opset, batch_size=batch_size)
    engine = OnnxRuntimeEngine(graphs.__getitem__, description=description)
    reference = TorchEngine(network)
    shape = description.layout.shape
    mean, std = network.arguments["mean"], network.arguments["std"]
    goldens = description.num_golden
    parity = check_parity(
        engine,
        TorchEngine(split),
        shape=shape,
        truth=reference,
        mean=mean,
        std=std,
        num_golden=goldens,
        pair_batch=batch_size,
    )
    if validation is None:
        parity = replace(parity, reason=not_compared)
    else:
        parity = replace(parity, agreement=compare_engines(reference, engine, validation, description).agreement)
    return _write(
        graphs,
        _Facts(description, weights_digest(checkpoint.state), "fp32", parity, opset, batch_size),
        folder,
        scored_by=reference,
        onnx_file=onnx_file,
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
        force: Also if it decides otherwise more often than was allowed.

    Raises:
        CheckpointError: It has no ONNX graphs, or something is there that may not be replaced.
        EngineError: onnxruntime is not installed, or its decisions agree too seldom, and `force` is not given.
    """
    import_onnxruntime()
    if checkpoint.backend == "torchao":
        what = "a checkpoint quantized by torchao has no ONNX graphs: it runs in PyTorch only"
        raise CheckpointError(what, fix="Quantize with backend: onnxruntime.")
    if not checkpoint.agrees and not force:
        what = "the quantized network was compared with nothing"
        if checkpoint.agreement is not None:
            wanted = f"quantize.min_agreement was {checkpoint.min_agreement:g}"
            what = f"{checkpoint.agreement:.2%} of the quantized network's decisions are the checkpoint's; {wanted}"
        raise EngineError(what, fix="Quantize fewer layers, or add --force.")
    _check_writable(folder, onnx_file, overwrite=overwrite)
    graphs = dict(checkpoint.graphs) or qdq_graphs(checkpoint)
    pair = onnx.load_from_string(graphs["pair.onnx"])
    if batch_size > 0:
        fix_batch(pair, batch_size)
        graphs["pair.onnx"] = pair.SerializeToString(deterministic=True)
    opset = next(each.version for each in pair.opset_import if not each.domain)
    description, precision = checkpoint.description, checkpoint.precision
    known = checkpoint.max_error is not None and math.isfinite(checkpoint.max_error)
    return _write(
        graphs,
        _Facts(
            description,
            checkpoint.weights_sha256,
            precision,
            Parity(checkpoint.max_error if known else None, checkpoint.agreement, checkpoint.min_agreement),
            opset,
            batch_size,
        ),
        folder,
        scored_by=OnnxRuntimeEngine(graphs.__getitem__, description=description, precision=precision),
        onnx_file=onnx_file,
        encryption_key=encryption_key,
        overwrite=overwrite,
    )


def _check_writable(
    folder: str | os.PathLike[str], onnx_file: str | os.PathLike[str] | None, *, overwrite: bool
) -> None:
    check_writable(folder, overwrite=overwrite)
    if onnx_file is not None and not overwrite and storage.exists(onnx_file):
        raise CheckpointError("exists", where=str(onnx_file), fix="Add --overwrite to replace it.")


class _Facts(NamedTuple):
    description: ModelDescription
    weights_sha256: str
    precision: str
    parity: Parity
    opset: int
    batch_size: int


def _write(
    graphs: Mapping[str, bytes],
    facts: _Facts,
    folder: str | os.PathLike[str],
    *,
    scored_by: Engine,
    onnx_file: str | os.PathLike[str] | None,
    encryption_key: str | None,
    overwrite: bool,
) -> Exported:
    onnxruntime = import_onnxruntime()
    description, parity, opset = facts.description, facts.parity, facts.opset
    shape, goldens = description.layout.shape, description.num_golden
    test, golden = make_pairs(SELFTEST_PAIRS, shape, seed=_SELFTEST_SEED, num_golden=goldens)
    selftest = SelfTest(test, golden, scored_by.score(test, golden)).to_bytes()
    stored = {
        name: encryption.seal(graph, encryption_key) if encryption_key else graph for name, graph in graphs.items()
    }
    manifest = Manifest(
        description=description,
        engines=(
            EngineEntry(
                name="onnxruntime",
                runtime="onnxruntime",
                precision=facts.precision,
                sha256={name: sha256(content) for name, content in stored.items()},
                parity=parity,
            ),
        ),
        selftest_sha256=sha256(selftest),
        batch_size=facts.batch_size,
        weights_sha256=facts.weights_sha256,
        exported_with={
            **{package.__name__: str(package.__version__) for package in (torch, onnx, onnxscript, onnxruntime)},
            "opset": str(opset),
        },
    )
    beside = storage.join(storage.parent(onnx_file), WEIGHTS) if onnx_file is not None else ""  # where it looks for it
    if beside and WEIGHTS in stored and not overwrite and storage.exists(beside):
        raise CheckpointError("exists", where=beside, fix="Add --overwrite to replace it.")
    write_bundle(folder, manifest, {**stored, SELFTEST: selftest}, overwrite=overwrite)
    sizes = {storage.join(folder, name): len(content) for name, content in {**stored, SELFTEST: selftest}.items()}
    if onnx_file is not None:
        for path, name in ((str(onnx_file), "pair.onnx"), (beside, WEIGHTS)):
            if name in stored:
                storage.write_bytes(path, stored[name])
                sizes[path] = len(stored[name])
    return Exported(files=sizes, opset=opset, parity=parity, precision=facts.precision)


def weights_digest(state: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 of weights: name, type, shape and bytes of each, in order; independent of any file format."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
