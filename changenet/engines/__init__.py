"""Engines run a trained network: one interface, one module a runtime.

A checkpoint runs in PyTorch; a bundle runs in ONNX Runtime, without torch being imported, or in TensorRT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from changenet import storage
from changenet.bundle import Bundle, is_bundle, read_bundle
from changenet.description import ModelDescription
from changenet.engines.interface import Arrays, Engine
from changenet.engines.tensorrt import TensorRtEngine, is_engine_file, open_files
from changenet.errors import CheckpointError, EngineError
from changenet.signing import KeySource

if TYPE_CHECKING:
    from changenet.quantization.file import QuantizedCheckpoint
    from changenet.training.checkpoint import Checkpoint, Describe

__all__ = ["ENGINES", "Arrays", "Engine", "engine_of", "load_engine"]

ENGINES = ("auto", "onnxruntime", "tensorrt", "torch")


def load_engine(
    path: str,
    engine: str = "auto",
    *,
    encryption_key: str | None = None,
    trusted_keys: Sequence[KeySource] = (),
    threads: int | None = None,
    device: str = "cpu",
    describe: Describe | None = None,
) -> tuple[Engine, ModelDescription, Bundle | None]:
    """Open a checkpoint, a bundle or a TensorRT engine with the engine asked for.

    Args:
        path: A checkpoint file, quantized or not, a bundle folder, or an engine file (path or URI).
        engine: One of `ENGINES`; `auto` takes `onnxruntime` for a bundle, `torch` for a checkpoint, and `tensorrt` for
            an engine file only: other machines cannot run it.
        encryption_key: Opens encrypted model files.
        trusted_keys: Public keys, as files or PEM text; one of them must have signed the bundle. Without any a
            signature is not looked at.
        threads: CPU threads of one call; None leaves the runtime's own choice. PyTorch's are the whole process's.
        device: Where PyTorch and TensorRT run, e.g. `cuda`; TensorRT takes a GPU whatever is said.
        describe: Says what network a TAO checkpoint holds; without it such a file is refused.

    Returns:
        The engine, what the model says about itself, and the bundle, where it is one.

    Raises:
        CheckpointError: The file is missing, damaged, locked, of a newer format, or not signed with a trusted key.
        EngineError: The engine is unknown, needs a package that is missing, or cannot run this kind of file.
    """
    if engine not in ENGINES:
        raise EngineError(f"there is no engine {engine!r}", fix=f"Choose one of {', '.join(ENGINES)}.")
    if engine == "tensorrt" or is_engine_file(path):
        if engine not in ("auto", "tensorrt"):
            what = f"a TensorRT engine, which the engine {engine} cannot run"
            raise EngineError(what, where=path, fix="Give the checkpoint or the bundle, or the engine tensorrt.")
        files, found = open_files(path, encryption_key=encryption_key, trusted_keys=trusted_keys)
        return TensorRtEngine(files, device=device), files.description, found
    if is_bundle(path):
        if engine == "torch":
            what = "a bundle holds ONNX graphs, which the torch engine cannot run"
            raise EngineError(what, where=path, fix="Give the checkpoint, or the engine onnxruntime.")
        from changenet.engines.onnxruntime import OnnxRuntimeEngine

        bundle = read_bundle(path, encryption_key=encryption_key, trusted_keys=trusted_keys)
        return OnnxRuntimeEngine.from_bundle(bundle, threads=threads), bundle.manifest.description, bundle
    if trusted_keys and storage.exists(path):
        what = "is no bundle, and a signature is demanded, which only a bundle can carry"
        raise CheckpointError(what, where=path, fix="Export it and sign the bundle.")
    if path.endswith(".onnx"):
        what = "an ONNX file alone has neither preprocessing nor threshold"
        raise CheckpointError(what, where=path, fix="Give the bundle folder that export wrote beside it.")
    from changenet.quantization.file import QuantizedCheckpoint, load_model

    checkpoint = load_model(path, encryption_key=encryption_key, describe=describe)
    graphs = isinstance(checkpoint, QuantizedCheckpoint) and bool(checkpoint.graphs)
    if engine == "onnxruntime" and not graphs:
        raise EngineError("onnxruntime needs a bundle", where=path, fix="Run changenet export and give its bundle.")
    if engine == "torch" and graphs:
        what = "holds ONNX graphs, which the torch engine cannot run"
        raise EngineError(what, where=path, fix="Use the engine onnxruntime.")
    return engine_of(checkpoint, threads=threads, device=device), checkpoint.description, None


def engine_of(
    checkpoint: Checkpoint | QuantizedCheckpoint, *, threads: int | None = None, device: str = "cpu"
) -> Engine:
    """Return the engine that runs a checkpoint (arguments and errors as `load_engine`)."""
    from changenet.quantization.file import QuantizedCheckpoint

    if isinstance(checkpoint, QuantizedCheckpoint) and checkpoint.graphs:
        from changenet.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(
            checkpoint.graphs.__getitem__,
            description=checkpoint.description,
            threads=threads,
            precision=checkpoint.precision,
        )
    from changenet.engines.torch import TorchEngine

    return TorchEngine.from_checkpoint(checkpoint, threads=threads, device=device)
