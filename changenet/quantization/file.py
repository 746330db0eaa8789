"""Quantized checkpoints: plain tensors and plain values, so that reading one runs nothing.

Like a checkpoint such a file describes itself. It also says which layers are quantized and by which backend; the
network is built anew, its layers are quantized alike, and the stored numbers take the place of the fresh ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from changenet import encryption
from changenet.description import ModelDescription
from changenet.errors import CheckpointError
from changenet.model.network import ChangeNet
from changenet.model.weight_files import read_pickled
from changenet.training.checkpoint import QUANTIZED_FORMAT, Checkpoint, Describe, checkpoint_from

FORMAT_VERSION = 1
_COMPARED = ("agreement", "max_error", "min_agreement")


@dataclass(frozen=True)
class QuantizedCheckpoint:
    """What a quantized file holds.

    Args:
        description: As of the checkpoint that was quantized.
        backend: `torchao`, `onnxruntime` or `modelopt.pytorch`.
        layers: Name of each quantized layer to its number format.
        versions: Of the packages that quantized it.
        min_agreement: The agreement that was asked for.
        weights_sha256: Of the network of floats, as in a bundle's manifest.
        agreement: Share of decisions (0-1) that are those of the network of floats; None: nothing was compared.
        max_error: Largest |score difference| / max(1, |score|) on the pairs of the comparison.
        state: Tensors by name; those of quantized layers as the backend takes them apart. Empty where there are graphs.
        graphs: ONNX graphs by file name, as in a bundle.
    """

    description: ModelDescription
    backend: str
    layers: dict[str, str]
    versions: dict[str, str]
    min_agreement: float
    weights_sha256: str
    agreement: float | None = None
    max_error: float | None = None
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    graphs: dict[str, bytes] = field(default_factory=dict)

    @property
    def needs_torch(self) -> bool:
        """Whether nothing but PyTorch runs it: ONNX has no counterpart of what torchao does."""
        return self.backend == "torchao"

    @property
    def precision(self) -> str:
        """The number formats, shortly: `int8`, `fp8`, `fp8+int8`."""
        return "+".join(sorted({dtype.split("_")[0] for dtype in self.layers.values()}))

    @property
    def agrees(self) -> bool:
        """Whether its decisions are as often those of the network of floats as was asked for."""
        return self.agreement is not None and self.agreement >= self.min_agreement

    def compared(self, agreement: float, max_error: float) -> QuantizedCheckpoint:
        """Return a copy that says how well it agrees."""
        return replace(self, agreement=agreement, max_error=max_error)


def save_quantized(path: str, checkpoint: QuantizedCheckpoint, *, encryption_key: str | None = None) -> None:
    """Write the file atomically; with a key only ciphertext ever reaches the disk."""
    graphs = checkpoint.graphs
    with encryption.write_model(path, encryption_key) as file:
        torch.save(
            {
                "format": QUANTIZED_FORMAT,
                "format_version": FORMAT_VERSION,
                "description": checkpoint.description.to_dict(),
                "backend": checkpoint.backend,
                "layers": checkpoint.layers,
                "versions": checkpoint.versions,
                "comparison": {name: getattr(checkpoint, name) for name in _COMPARED},
                "weights_sha256": checkpoint.weights_sha256,
                "model_state_dict": checkpoint.state,
                # As tensors: `torch.save` writes them as they are, and maps them back.
                "graphs": {name: torch.frombuffer(bytearray(each), dtype=torch.uint8) for name, each in graphs.items()},
            },
            file,
        )


def load_model(
    path: str, *, encryption_key: str | None = None, describe: Describe | None = None
) -> Checkpoint | QuantizedCheckpoint:
    """Read a checkpoint, quantized or not: arguments and errors as `changenet.training.checkpoint.load_checkpoint`."""
    values = read_pickled(encryption.read_model(path, encryption_key), where=path)
    if not isinstance(values, dict) or values.get("format") != QUANTIZED_FORMAT:
        return checkpoint_from(values, path, describe)
    version = values.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        what = f"format version {version} is newer than this program reads ({FORMAT_VERSION})"
        raise CheckpointError(what, where=path, fix="Update changenet.")
    try:
        return _from_values(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError("is damaged: it cannot be read", where=path, fix="Quantize it again.") from error


def _from_values(values: dict[str, Any]) -> QuantizedCheckpoint:
    return QuantizedCheckpoint(
        description=ModelDescription.from_dict(values["description"]),
        backend=str(values["backend"]),
        layers={str(name): str(dtype) for name, dtype in values["layers"].items()},
        state=dict(values["model_state_dict"]),
        versions=dict(values["versions"]),
        **{name: values["comparison"][name] for name in _COMPARED},
        weights_sha256=str(values["weights_sha256"]),
        graphs={str(name): each.numpy().tobytes() for name, each in values["graphs"].items()},
    )


def build_quantized(checkpoint: QuantizedCheckpoint) -> ChangeNet:
    """Return the quantized network in evaluation mode, on the CPU.

    Raises:
        CheckpointError: Its tensors do not fit the network that it describes.
        EngineError: The package that quantized it is not installed, or there is no such backend.
    """
    from changenet.quantization import modelopt, torchao

    backends = {"torchao": torchao.restore, "modelopt.pytorch": modelopt.restore}
    if checkpoint.backend not in backends:
        what = f"was quantized by {checkpoint.backend!r}, which this version does not know"
        raise CheckpointError(what, fix="Update changenet.")
    network = ChangeNet(**checkpoint.description.network)
    backends[checkpoint.backend](network, checkpoint.layers, checkpoint.state)
    return network.eval()
