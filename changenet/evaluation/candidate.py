"""A network as an engine in a precision runs it: what is judged and measured beside others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from changenet.bundle import WEIGHTS
from changenet.description import ModelDescription
from changenet.engines import PRECISIONS, engine_of
from changenet.engines.interface import Engine
from changenet.engines.onnxruntime import RUNTIME, OnnxRuntimeEngine

if TYPE_CHECKING:
    from changenet.quantization.file import QuantizedCheckpoint
    from changenet.training.checkpoint import Checkpoint

PAIR_GRAPH = "pair.onnx"


@dataclass(frozen=True)
class Candidate:
    """One of the ways to run a network; made by `in_pytorch` or `in_onnxruntime`.

    Args:
        engine: `torch` or `onnxruntime`.
        precision: `fp32`, `bf16`, or that of the quantized layers.
        model: A checkpoint of tensors; for ONNX Runtime the graphs by file name, without the pair graph, which nothing runs.
        description: What the network says about itself.
        size: Bytes of its weights, or of its pair graph with its weights.
        device: `cpu` or `cuda`.
    """

    engine: str
    precision: str
    model: Checkpoint | QuantizedCheckpoint | Mapping[str, bytes]
    description: ModelDescription
    size: int
    device: str = "cpu"

    @classmethod
    def in_pytorch(cls, checkpoint: Checkpoint | QuantizedCheckpoint, precision: str) -> Candidate:
        """Return a checkpoint of tensors as PyTorch runs it."""
        size = sum(tensor.nbytes for tensor in checkpoint.state.values())
        return cls("torch", precision, checkpoint, checkpoint.description, size)

    @classmethod
    def in_onnxruntime(cls, graphs: Mapping[str, bytes], precision: str, description: ModelDescription) -> Candidate:
        """Return the graphs of a bundle as ONNX Runtime runs them."""
        split = {name: graph for name, graph in graphs.items() if name != PAIR_GRAPH}
        size = len(graphs[PAIR_GRAPH]) + len(graphs.get(WEIGHTS, b""))
        return cls(RUNTIME, precision, split, description, size)

    def open(self) -> Engine:
        """Load it on its device (raises as `changenet.engines.load_engine`)."""
        if isinstance(self.model, Mapping):
            return OnnxRuntimeEngine(
                self.model.__getitem__, description=self.description, precision=self.precision, device=self.device
            )
        precision = self.precision if self.precision in PRECISIONS else "fp32"
        return engine_of(self.model, precision=precision, device=self.device)
