"""Export to ONNX: a checkpoint becomes a bundle, or nothing is written."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import onnx
import onnxscript
import torch

from changenet import encryption, storage
from changenet.bundle import (
    SELFTEST,
    EngineEntry,
    Manifest,
    Parity,
    SelfTest,
    check_writable,
    sha256,
    write_bundle,
)
from changenet.engines.onnxruntime import OnnxRuntimeEngine, import_onnxruntime
from changenet.engines.torch import TorchEngine
from changenet.errors import CheckpointError
from changenet.export.graphs import MIN_OPSET, export_graphs, supported_opset
from changenet.export.parity import check_parity, make_pairs
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
    """

    files: dict[str, int]
    opset: int
    parity: Parity


def export_bundle(
    checkpoint: Checkpoint,
    folder: str | os.PathLike[str],
    *,
    onnx_file: str | os.PathLike[str] | None = None,
    opset: int = MIN_OPSET,
    batch_size: int = -1,
    encryption_key: str | None = None,
    overwrite: bool = False,
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

    Raises:
        CheckpointError: The weights do not fit, or something is there that may not be replaced.
        EngineError: ONNX Runtime is not installed, or a graph does not agree with the network: nothing is written.
    """
    onnxruntime = import_onnxruntime()
    check_writable(folder, overwrite=overwrite)
    if onnx_file is not None and not overwrite and storage.exists(onnx_file):
        raise CheckpointError("exists", where=str(onnx_file), fix="Add --overwrite to replace it.")
    description = checkpoint.description
    network = build_network(checkpoint)
    opset = supported_opset(opset)
    graphs = {
        name: graph.SerializeToString(deterministic=True)
        for name, graph in export_graphs(network, opset=opset, batch_size=batch_size).items()
    }
    engine = OnnxRuntimeEngine(graphs.__getitem__, description=description)
    reference = TorchEngine(network)
    shape = description.layout.shape
    mean, std = network.arguments["mean"], network.arguments["std"]
    goldens = description.num_golden
    parity = check_parity(engine, reference, shape=shape, mean=mean, std=std, num_golden=goldens, pair_batch=batch_size)
    test, golden = make_pairs(SELFTEST_PAIRS, shape, seed=_SELFTEST_SEED, num_golden=goldens)
    selftest = SelfTest(test, golden, reference.score(test, golden)).to_bytes()
    stored = {
        name: encryption.seal(graph, encryption_key) if encryption_key else graph for name, graph in graphs.items()
    }
    manifest = Manifest(
        description=description,
        engines=(
            EngineEntry(
                name="onnxruntime",
                runtime="onnxruntime",
                precision="fp32",
                sha256={name: sha256(content) for name, content in stored.items()},
                parity=parity,
            ),
        ),
        selftest_sha256=sha256(selftest),
        batch_size=batch_size,
        weights_sha256=weights_digest(checkpoint.state),
        exported_with={
            **{package.__name__: str(package.__version__) for package in (torch, onnx, onnxscript, onnxruntime)},
            "opset": str(opset),
        },
    )
    write_bundle(folder, manifest, {**stored, SELFTEST: selftest}, overwrite=overwrite)
    sizes = {storage.join(folder, name): len(content) for name, content in {**stored, SELFTEST: selftest}.items()}
    if onnx_file is not None:
        storage.write_bytes(onnx_file, stored["pair.onnx"])
        sizes[str(onnx_file)] = len(stored["pair.onnx"])
    return Exported(files=sizes, opset=opset, parity=parity)


def weights_digest(state: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 of weights: name, type, shape and bytes of each, in order; independent of any file format."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
