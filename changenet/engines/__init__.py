"""Engines run a trained network: one interface, one module a runtime.

A checkpoint runs in PyTorch; a bundle runs in ONNX Runtime, without torch being imported, or in TensorRT, or in PyTorch where it
holds a network that nothing else runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from changenet import storage
from changenet.bundle import Bundle, is_bundle, read_bundle
from changenet.description import ModelDescription
from changenet.engines.choice import fastest
from changenet.engines.interface import Arrays, Engine
from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.engines.tensorrt import TensorRtEngine
from changenet.engines.tensorrt_files import is_engine_file, open_files
from changenet.errors import CheckpointError, EngineError
from changenet.signing import KeySource

if TYPE_CHECKING:
    from changenet.quantization.file import QuantizedCheckpoint
    from changenet.training.checkpoint import Checkpoint, Describe

__all__ = ["ENGINES", "PRECISIONS", "Arrays", "Engine", "engine_of", "load_engine"]

ENGINES = ("auto", "onnxruntime", "tensorrt", "torch")
PRECISIONS = ("fp32", "bf16")


def load_engine(
    path: str,
    engine: str = "auto",
    *,
    encryption_key: str | None = None,
    trusted_keys: Sequence[KeySource] = (),
    threads: int | None = None,
    device: str | None = None,
    precision: str = "fp32",
    compiled: bool = False,
    describe: Describe | None = None,
) -> tuple[Engine, ModelDescription, Bundle | None]:
    """Open a checkpoint, a bundle or a TensorRT engine with the engine asked for.

    Args:
        path: A checkpoint file, quantized or not, a bundle folder, or an engine file (path or URI).
        engine: One of `ENGINES`; `auto` takes `torch` for a checkpoint, `tensorrt` for an engine file, and for a bundle what
            `changenet.engines.choice.fastest` finds.
        encryption_key: Opens encrypted model files.
        trusted_keys: Public keys, as files or PEM text; one of them must have signed the bundle. Without any a
            signature is not looked at.
        threads: CPU threads of one call; None leaves the runtime's own choice. PyTorch's are the whole process's.
        device: `cpu`, `cuda` or `cuda:N`; ONNX Runtime also takes `tensorrt`, its own TensorRT provider. TensorRT takes a GPU
            whatever is said, but `auto` leaves it out on the CPU. None: the CPU, or the GPU that TensorRT finds.
        precision: `fp32`, or `bf16` where PyTorch runs a checkpoint that is not quantized. A bundle has its own.
        compiled: Let `torch.compile` write PyTorch's code.
        describe: Says what network a TAO checkpoint holds; without it such a file is refused.

    Returns:
        The engine, what the model says about itself, and the bundle, where it is one.

    Raises:
        CheckpointError: The file is missing, damaged, locked, of a newer format, or not signed with a trusted key.
        EngineError: The engine is unknown, needs a package that is missing, or cannot run this kind of file.
    """
    if engine not in ENGINES:
        raise EngineError(f"there is no engine {engine!r}", fix=f"Choose one of {', '.join(ENGINES)}.")
    if precision not in PRECISIONS:
        raise EngineError(f"there is no precision {precision!r}", fix=f"Choose one of {', '.join(PRECISIONS)}.")
    if engine == "tensorrt" or is_engine_file(path):
        if engine not in ("auto", "tensorrt"):
            what = f"a TensorRT engine, which the engine {engine} cannot run"
            raise EngineError(what, where=path, fix="Give the checkpoint or the bundle, or the engine tensorrt.")
        _only_torch(precision, compiled=compiled, where=path)
        files, found = open_files(path, encryption_key=encryption_key, trusted_keys=trusted_keys)
        return TensorRtEngine(files, device=device or "cuda"), files.description, found
    if is_bundle(path):
        _only_torch(precision, compiled=compiled, where=path)
        bundle = read_bundle(path, encryption_key=encryption_key, trusted_keys=trusted_keys)
        loaded: Engine
        if engine == "auto":
            loaded = fastest(bundle, threads=threads, device=device)
        elif engine == "torch":
            from changenet.engines.torch import TorchEngine

            loaded = TorchEngine.from_bundle(bundle, threads=threads, device=device or "cpu")
        else:
            loaded = OnnxRuntimeEngine.from_bundle(bundle, threads=threads, device=device or "cpu")
        return loaded, bundle.manifest.description, bundle
    if trusted_keys and storage.exists(path):
        what = "is no bundle, and a signature is demanded, which only a bundle can carry"
        raise CheckpointError(what, where=path, fix="Export it and sign the bundle.")
    if path.endswith(".onnx"):
        what = "an ONNX file alone has neither preprocessing nor threshold"
        raise CheckpointError(what, where=path, fix="Give the bundle folder that export wrote beside it.")
    from changenet.quantization.file import QuantizedCheckpoint, load_model

    checkpoint = load_model(path, encryption_key=encryption_key, describe=describe)
    graphs = isinstance(checkpoint, QuantizedCheckpoint) and bool(checkpoint.graphs)
    if engine == "onnxruntime" and isinstance(checkpoint, QuantizedCheckpoint) and checkpoint.backend == "torchao":
        what = "was quantized by torchao, whose layers only PyTorch runs"
        raise EngineError(what, where=path, fix="Use the engine torch, or quantize with the backend onnxruntime.")
    if engine == "onnxruntime" and not graphs:
        raise EngineError("onnxruntime needs a bundle", where=path, fix="Run changenet export and give its bundle.")
    if engine == "torch" and graphs:
        what = "holds ONNX graphs, which the torch engine cannot run"
        raise EngineError(what, where=path, fix="Use the engine onnxruntime.")
    if graphs:
        _only_torch(precision, compiled=compiled, where=path)
    loaded_from = engine_of(checkpoint, threads=threads, device=device or "cpu", precision=precision, compiled=compiled)
    return loaded_from, checkpoint.description, None


def _only_torch(precision: str, *, compiled: bool, where: str) -> None:
    """Refuse what only PyTorch does with a checkpoint of floats."""
    if precision != "fp32":
        what = f"has a precision of its own, and {precision} is asked for"
        raise EngineError(
            what, where=where, fix="Give the checkpoint with the engine torch, or leave the precision out."
        )
    if compiled:
        what = "holds no network of floats, and torch.compile takes nothing else"
        raise EngineError(what, where=where, fix="Give the checkpoint, or leave compile out.")


def engine_of(
    checkpoint: Checkpoint | QuantizedCheckpoint,
    *,
    threads: int | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    compiled: bool = False,
) -> Engine:
    """Return the engine that runs a checkpoint (arguments and errors as `load_engine`)."""
    from changenet.quantization.file import QuantizedCheckpoint

    if isinstance(checkpoint, QuantizedCheckpoint) and checkpoint.graphs:
        return OnnxRuntimeEngine(
            checkpoint.graphs.__getitem__,
            description=checkpoint.description,
            threads=threads,
            precision=checkpoint.precision,
            device=device,
        )
    from changenet.engines.torch import TorchEngine

    return TorchEngine.from_checkpoint(
        checkpoint, threads=threads, device=device, precision=precision, compiled=compiled
    )
