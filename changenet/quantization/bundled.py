"""A quantized network inside a bundle: its tensors in a file that can hold nothing else, and what they are in the manifest."""

from __future__ import annotations

from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from changenet import storage
from changenet.bundle import Bundle
from changenet.errors import CheckpointError, EngineError
from changenet.manifest import NETWORK, EngineEntry
from changenet.quantization.file import QuantizedCheckpoint


def tensors_of(checkpoint: QuantizedCheckpoint) -> bytes:
    """Return the content of `network.safetensors`, in the clear."""
    # A copy each: the format takes no tensors that share memory.
    return safetensors.torch.save({name: tensor.contiguous().clone() for name, tensor in checkpoint.state.items()})


def tag_of(checkpoint: QuantizedCheckpoint) -> dict[str, Any]:
    """Return what a reader has to know of it: the `tag` of the engine in the manifest."""
    return {"backend": checkpoint.backend, "layers": checkpoint.layers, "versions": checkpoint.versions}


def quantized_of(bundle: Bundle) -> QuantizedCheckpoint:
    """Read both back.

    Raises:
        EngineError: The bundle holds ONNX graphs instead.
        CheckpointError: The file is damaged, or not what the manifest says.
    """
    entry = next((each for each in bundle.manifest.engines if NETWORK in each.sha256), None)
    if entry is None:
        what = "a bundle of ONNX graphs, which the torch engine cannot run"
        raise EngineError(what, where=bundle.folder, fix="Give the checkpoint, or the engine onnxruntime.")
    try:
        return _read(bundle, entry)
    except (SafetensorError, KeyError, TypeError, AttributeError) as error:
        where = storage.join(bundle.folder, NETWORK)
        raise CheckpointError("is not what the manifest says", where=where, fix="Export it again.") from error


def _read(bundle: Bundle, entry: EngineEntry) -> QuantizedCheckpoint:
    parity = entry.parity
    return QuantizedCheckpoint(
        description=bundle.manifest.description,
        backend=str(entry.tag["backend"]),
        layers={str(name): str(dtype) for name, dtype in entry.tag["layers"].items()},
        versions=dict(entry.tag["versions"]),
        min_agreement=parity.min_agreement,
        weights_sha256=bundle.manifest.weights_sha256,
        agreement=parity.agreement,
        max_error=parity.max_error,
        state=safetensors.torch.load(bundle.read(NETWORK)),
    )
