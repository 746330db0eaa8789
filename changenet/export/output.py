"""What an export writes: the bundle, with its self-test and manifest, and a copy of the graph for other programs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
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
from changenet.export.parity import make_pairs
from changenet.export.targets import check_files
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


def check_outputs(
    folder: str | os.PathLike[str],
    onnx_file: str | os.PathLike[str] | None,
    beside: Iterable[str],
    *,
    overwrite: bool,
) -> None:
    """Make sure that bundle, copy and the files that go with it may be written (raises as `check_files`)."""
    copies = [] if onnx_file is None else [str(onnx_file)]
    check_files([*copies, *beside], bundle=str(folder), overwrite=overwrite)
    check_writable(folder, overwrite=overwrite)


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
    beside: Mapping[str, str],
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
        beside: Path to text of files that go with the copy.
        encryption_key: Encrypts every model file.
        overwrite: Replace what an earlier export wrote.

    Raises:
        CheckpointError: Something is there that may not be replaced, or would lie in the bundle.
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
    copies = {path: text.encode("utf-8") for path, text in beside.items()}
    if onnx_file is not None:
        copies[str(onnx_file)] = stored["pair.onnx"]
        if WEIGHTS in stored:  # the graph looks for it in its own folder
            copies[storage.join(storage.parent(onnx_file), WEIGHTS)] = stored[WEIGHTS]
    check_files(copies, bundle=str(folder), overwrite=overwrite)
    inside = {**stored, SELFTEST: selftest}
    with storage.or_as_before(*copies):
        for path, content in copies.items():
            storage.write_bytes(path, content)
        write_bundle(folder, manifest, inside, overwrite=overwrite)
    written = {storage.join(folder, name): content for name, content in inside.items()} | copies
    sizes = {path: len(content) for path, content in written.items()}
    return Exported(files=sizes, opset=facts.opset, parity=parity, precision=facts.precision)
