"""The graphs of a network that ModelOpt quantized: its rounding becomes QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.engines.torch import TorchEngine
from changenet.errors import CheckpointError
from changenet.export.graphs import assemble
from changenet.export.parity import check_parity
from changenet.export.trace import TORCHSCRIPT_OPSET, trace_parts
from changenet.quantization.file import QuantizedCheckpoint, build_quantized

# A value between two steps of 8 bits is rounded up by one runtime and down by another.
TOLERANCE = 0.2  # of |score difference| / max(1, |score|)


def qdq_graphs(checkpoint: QuantizedCheckpoint) -> dict[str, bytes]:
    """Return file name to graph, as in a bundle, opset 17, once they have given the scores of the rounded network.

    Raises:
        CheckpointError: Its number format has no such graphs, or its tensors do not fit.
        EngineError: ModelOpt or onnxruntime is not installed, or a graph does not agree.
    """
    if checkpoint.precision != "int8":
        what = f"only int8 becomes ONNX graphs that run, and this is {checkpoint.precision}"
        raise CheckpointError(what, fix="Quantize with dtype: int8.")
    network, description = build_quantized(checkpoint), checkpoint.description
    parts = trace_parts(network, opset=TORCHSCRIPT_OPSET)
    graphs = {name: graph.SerializeToString(deterministic=True) for name, graph in assemble(parts).items()}
    check_parity(
        OnnxRuntimeEngine(graphs.__getitem__, description=description, precision="int8"),
        TorchEngine(network),
        shape=description.layout.shape,
        mean=network.arguments["mean"],
        std=network.arguments["std"],
        num_golden=description.num_golden,
        tolerance=TOLERANCE,
    )
    return graphs
