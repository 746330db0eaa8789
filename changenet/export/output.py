"""What an export writes: the bundle, with its self-test and manifest, and a copy of the graph for other programs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import onnx
import onnxscript
import torch

from changenet import encryption, storage
from changenet.bundle import WEIGHTS, SelfTest, check_writable, write_bundle
from changenet.description import ModelDescription
from changenet.engines.choice import TORCH
from changenet.engines.interface import Engine
from changenet.engines.onnxruntime import RUNTIME as ONNX_RUNTIME
from changenet.engines.onnxruntime import import_onnxruntime
from changenet.errors import CheckpointError
from changenet.export.parity import make_pairs
from changenet.manifest import SELFTEST, EngineEntry, Manifest, Parity
from changenet.storage import sha256

SELFTEST_PAIRS = 2
_SELFTEST_SEED = 7


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Args:
        files: Path to size in bytes.
        opset: Of the graphs; None where there are none.
        parity: Agreement with the PyTorch network.
        precision: Of the graphs.
    """

    files: dict[str, int]
    opset: int | None
    parity: Parity
    precision: str


def check_outputs(folder: str | os.PathLike[str], onnx_file: str | os.PathLike[str] | None, *, overwrite: bool) -> None:
    """Make sure that bundle and copy may be written.

    Raises:
        CheckpointError: Something is there that may not be replaced.
    """
    check_writable(folder, overwrite=overwrite)
    if onnx_file is not None and not overwrite and storage.exists(onnx_file):
        raise CheckpointError("exists", where=str(onnx_file), fix="Add --overwrite to replace it.")


class Facts(NamedTuple):
    """What is known of an export before anything is written.

    Args:
        description: The model's own.
        weights_sha256: Digest of the weights of floats.
        precision: Of the model files.
        parity: How well they agree with the network.
        opset: Of the graphs; None: PyTorch runs it, and there are none.
        batch_size: Of `pair.onnx`; -1 = any.
        tag: Of the engine.
    """

    description: ModelDescription
    weights_sha256: str
    precision: str
    parity: Parity
    opset: int | None
    batch_size: int
    tag: Mapping[str, Any] = MappingProxyType({})


def write_outputs(
    models: Mapping[str, bytes],
    facts: Facts,
    folder: str | os.PathLike[str],
    *,
    scored_by: Engine,
    onnx_file: str | os.PathLike[str] | None,
    encryption_key: str | None,
    overwrite: bool,
) -> Exported:
    """Write the bundle, and `pair.onnx` with its weights once more where a path is given for it.

    Args:
        models: File name to content, in the clear.
        facts: About them.
        folder: Of the bundle.
        scored_by: Scores the self-test.
        onnx_file: Of the copy.
        encryption_key: Encrypts every model file.
        overwrite: Replace what an earlier export wrote.

    Raises:
        CheckpointError: Something is there that may not be replaced.
    """
    description, parity = facts.description, facts.parity
    runtime = TORCH if facts.opset is None else ONNX_RUNTIME
    shape, goldens = description.layout.shape, description.num_golden
    test, golden = make_pairs(SELFTEST_PAIRS, shape, seed=_SELFTEST_SEED, num_golden=goldens)
    selftest = SelfTest(test, golden, scored_by.score(test, golden)).to_bytes()
    stored = {
        name: encryption.seal(content, encryption_key) if encryption_key else content
        for name, content in models.items()
    }
    exported_with = {torch.__name__: str(torch.__version__)}
    if facts.opset is not None:
        packages = (onnx, onnxscript, import_onnxruntime())
        exported_with |= {each.__name__: str(each.__version__) for each in packages} | {"opset": str(facts.opset)}
    manifest = Manifest(
        description=description,
        engines=(
            EngineEntry(
                name=runtime,
                runtime=runtime,
                precision=facts.precision,
                sha256={name: sha256(content) for name, content in stored.items()},
                parity=parity,
                tag=dict(facts.tag),
            ),
        ),
        selftest_sha256=sha256(selftest),
        batch_size=facts.batch_size,
        weights_sha256=facts.weights_sha256,
        exported_with=exported_with,
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
    return Exported(files=sizes, opset=facts.opset, parity=parity, precision=facts.precision)
