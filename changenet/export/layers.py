"""Which nodes of a graph compute which layers of the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import onnx

OPERATORS = ("Conv", "Gemm", "MatMul")


def cut_off(graph: onnx.ModelProto, nodes: Collection[str]) -> dict[str, str]:
    """Return what convolutions among `nodes` give, each with what an activation leaves of it before anything else sees it."""
    given = {node.output[0] for node in graph.graph.node if node.op_type == "Conv" and node.name in nodes}
    uses = Counter(name for node in graph.graph.node for name in node.input)
    uses.update(value.name for value in graph.graph.output)
    return {
        node.input[0]: node.output[0]
        for node in graph.graph.node
        if node.op_type in ("Clip", "Relu") and node.input[0] in given and uses[node.input[0]] == 1
    }


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
