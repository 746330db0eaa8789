"""Which nodes of a graph compute which layers of the network."""

from __future__ import annotations

from collections.abc import Collection

import onnx

OPERATORS = ("Conv", "Gemm", "MatMul")


def layers_of_nodes(graph: onnx.ModelProto, layers: Collection[str]) -> dict[str, str]:
    """Return the names of the nodes that compute the layers, each with the name of its layer.

    A node begins with the name of its layer; a convolution that the exporter joined with its norm begins with the
    norm's, and only its weight says which one it is.
    """
    found = {}
    for node in graph.graph.node:
        if node.op_type in OPERATORS:
            names = [node.name.partition("/")[2].rpartition("/")[0]]
            names += [each.partition("network.")[2].removesuffix(".weight") for each in node.input[1:2]]
            if layer := next((name for name in names if name in layers), None):
                found[node.name] = layer
    return found
