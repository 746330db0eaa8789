"""The engine that runs a bundle where the user leaves it open: the fastest of those that are verified.

What is fastest was measured when the TensorRT engines were built and is part of the bundle, so that every process on the
same kind of machine chooses alike: a measurement of its own would give one run other scores than the next.
"""

from __future__ import annotations

import logging

import numpy as np

from changenet.bundle import Bundle
from changenet.engines import onnxruntime, tensorrt_files
from changenet.engines.interface import Engine
from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.engines.tensorrt import TensorRtEngine
from changenet.engines.tolerance import tolerance
from changenet.errors import CheckpointError, EngineError
from changenet.manifest import EngineEntry

logger = logging.getLogger(__name__)

TORCH = "torch"  # what the engine's module calls itself, which is imported only where it is needed


def fastest(bundle: Bundle, *, threads: int | None = None, device: str | None = None) -> Engine:
    """Load the fastest verified engine of a bundle that runs here.

    TensorRT comes first: on the GPU it was built for, with its package, unless it was measured to be slower than ONNX Runtime
    when it was built; it must pass the bundle's self-test here. An engine whose scores (fp32) or decisions (otherwise) were
    not held against the network, or which decides otherwise too often, is never taken.

    Args:
        bundle: Verified.
        threads: CPU threads of one call.
        device: `cuda` or `cuda:N`; `cpu` (or ONNX Runtime's `tensorrt`) leaves TensorRT out; None: a GPU that is here.

    Raises:
        EngineError: There is none.
        CheckpointError: ONNX Runtime cannot load a graph.
    """
    entries = {each.runtime: each for each in reversed(bundle.manifest.engines)}
    other = entries.get(onnxruntime.RUNTIME) or entries.get(TORCH)
    if other is not None:
        _check_verified(other, bundle.folder)  # TensorRT's, too: they were held against this one
    built = entries.get(tensorrt_files.RUNTIME)
    if built is not None and (device or "cuda").startswith("cuda"):
        try:
            return _tensorrt(bundle, built, device or "cuda")
        except (CheckpointError, EngineError) as error:
            logger.info("The TensorRT engine of %s is left out: %s", bundle.folder, error)
    if other is not None and other.runtime == TORCH:
        from changenet.engines.torch import TorchEngine

        return TorchEngine.from_bundle(bundle, threads=threads, device=device or "cpu")
    return OnnxRuntimeEngine.from_bundle(bundle, threads=threads, device=device or "cpu")


def _tensorrt(bundle: Bundle, entry: EngineEntry, device: str) -> Engine:
    _check_verified(entry, bundle.folder)
    files = tensorrt_files.files_of(bundle)
    measured = files.tag.pairs_per_second
    if measured and measured[tensorrt_files.RUNTIME] < measured[onnxruntime.RUNTIME]:
        raise EngineError("it was slower than ONNX Runtime when it was built")
    engine = TensorRtEngine(files, device=device)
    self_test(engine, bundle)
    return engine


def _check_verified(entry: EngineEntry, where: str) -> None:
    if entry.verified:
        return
    parity = entry.parity
    what = f"the engine {entry.name} ({entry.precision}) was not compared with the network"
    if parity.reason:
        what = f"{what}: {parity.reason}"
    elif parity.agreement is not None:
        what = (
            f"{parity.agreement:.2%} of the decisions of {entry.name} ({entry.precision}) are the network's, and "
            f"{parity.min_agreement:.2%} were asked for"
        )
    raise EngineError(what, where=where, fix=f"auto never takes it: name the engine {entry.runtime} to run it.")


def self_test(engine: Engine, bundle: Bundle) -> float:
    """Score the pairs stored in a bundle and return the largest |score difference| / max(1, |score|).

    Raises:
        CheckpointError: The pairs are not of the network's size.
        EngineError: This machine computes other scores than the one that exported the bundle.
    """
    stored = bundle.selftest()
    if stored.test.shape[1:] != bundle.manifest.description.layout.shape:
        raise CheckpointError("its self-test has another size", where=bundle.folder, fix="Export the bundle again.")
    scores = engine.score(stored.test, stored.golden)
    error = float(np.max(np.abs(scores - stored.scores) / np.maximum(1, np.abs(stored.scores))))
    allowed = tolerance(engine.precision)
    if not error <= allowed:
        raise EngineError(
            f"{engine.name} is off by {error:.1e} on the bundle's self-test (allowed {allowed:.0e})",
            where=bundle.folder,
            fix="Export the bundle again with the packages of this machine.",
        )
    return error
