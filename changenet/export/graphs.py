"""The ONNX graphs of a bundle, made of the traced pieces of a network.

The encoder, which costs nearly all the time, is traced once, for normalised floats; `encoder.onnx` puts the traced
`Normalise` before it and `pair.onnx` joins it with the other two.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx
import onnx.compose
import onnx.parser

from changenet.bundle import WEIGHTS
from changenet.export.trace import MIN_OPSET, Parts, trace_parts

if TYPE_CHECKING:
    from changenet.model.network import ChangeNet

logger = logging.getLogger(__name__)


def supported_opset(asked: int) -> int:
    """Return the opset to use: the exporter's smallest one, with a message, where less is asked for."""
    if asked >= MIN_OPSET:
        return asked
    logger.warning("export.opset_version %d is raised to %d, the smallest one that can be written.", asked, MIN_OPSET)
    return MIN_OPSET


def export_graphs(network: ChangeNet, *, opset: int = MIN_OPSET, batch_size: int = -1) -> dict[str, bytes]:
    """Return file name to content: the graphs, which take any batch, and the weights where those need a file of their own.

    Args:
        network: On the CPU; put into evaluation mode.
        opset: At least `MIN_OPSET`.
        batch_size: Of `pair.onnx`; -1 = any. The graphs of the split road always take any.
    """
    parts = trace_parts(network, opset=opset)
    graphs = assemble(parts, batch_size=batch_size)
    files = {name: graph.SerializeToString(deterministic=True) for name, graph in graphs.items()}
    return {**files, WEIGHTS: parts.weights} if parts.weights else files


def assemble(parts: Parts, *, batch_size: int = -1) -> dict[str, onnx.ModelProto]:
    """Return file name to graph (`batch_size` as in `export_graphs`)."""
    body, comparator = parts.encoder, parts.comparator
    graphs = {"encoder.onnx": _join(parts.normalise, body, ["normalised"]), "comparator.onnx": comparator}
    if parts.golden is not None:
        graphs["golden.onnx"] = parts.golden
    graphs["pair.onnx"] = _pair_graph(
        body,
        parts.golden,
        comparator,
        image_size=parts.image_size,
        levels=len(body.graph.output),
        goldens=parts.goldens,
    )
    if batch_size > 0:
        fix_batch(graphs["pair.onnx"], batch_size)
    if not parts.weights:  # the checker looks for the file, which is in memory only
        for graph in graphs.values():
            onnx.checker.check_model(graph)
    return graphs


def _pair_graph(
    body: onnx.ModelProto,
    golden: onnx.ModelProto | None,
    comparator: onnx.ModelProto,
    *,
    image_size: tuple[int, int],
    levels: int,
    goldens: int,
) -> onnx.ModelProto:
    """Join the parts as `ChangeNet.forward` does: one encoder call for test and goldens together."""
    sides = f"3, {image_size[0]}, {image_size[1]}"
    takes, nodes = f"float[batch, {sides}] input_2", ["normalised = Concat <axis = 0> (input_1, input_2)"]
    if goldens > 1:
        takes = f"float[batch, {goldens}, {sides}] input_2"
        nodes = [
            f"sides = Constant <value_ints = [-1, {sides}]> ()",
            "goldens = Reshape (input_2, sides)",
            "normalised = Concat <axis = 0> (input_1, goldens)",
        ]
    stack = _parse(
        body,
        f"stack (float[batch, {sides}] input_1, {takes}) => (float[batch, {sides}] normalised, int64[1] pairs)",
        *nodes,
        "pairs = Shape <start = 0, end = 1> (input_1)",
    )
    prefix = "" if golden is None else "of_golden_"
    halves = [f"{prefix}features_{level}" if golden is not None else f"golden_{level}" for level in range(levels)]
    types = [_type_of(output) for output in body.graph.output]
    takes = ", ".join(f"{types[level]} features_{level}" for level in range(levels))
    gives = ", ".join(f"{types[level]} test_{level}, {types[level]} {halves[level]}" for level in range(levels))
    split = _parse(
        body,
        f"split (int64[1] pairs, {takes}) => ({gives})",
        "first = Constant <value_ints = [0]> ()",
        "end = Constant <value_ints = [9223372036854775807]> ()",
        *[f"test_{level} = Slice (features_{level}, first, pairs, first)" for level in range(levels)],
        *[f"{halves[level]} = Slice (features_{level}, pairs, end, first)" for level in range(levels)],
    )
    features = [f"features_{level}" for level in range(levels)]
    model = _join(stack, body, ["normalised"])
    model = _join(model, split, ["pairs", *features])
    if golden is not None:
        # With several goldens `group` gives the names that the comparator takes.
        renamed = onnx.compose.add_prefix(golden, prefix, rename_outputs=goldens > 1)
        model = _join(model, renamed, [f"{prefix}{name}" for name in features])
        if goldens > 1:
            model = _join(model, _group(golden, prefix, goldens), [value.name for value in renamed.graph.output])
    model = _join(model, comparator, [graph_input.name for graph_input in comparator.graph.input])
    model.graph.name = "pair"
    return model


def _group(golden: onnx.ModelProto, prefix: str, goldens: int) -> onnx.ModelProto:
    """Return the graph that puts the halves of all goldens (B * N, E, H, W) together by pair: (B, N, E, H, W)."""
    outputs = {value.name: _sides_of(value)[1:] for value in golden.graph.output}
    takes = ", ".join(f"float[goldens, {', '.join(sides)}] {prefix}{name}" for name, sides in outputs.items())
    gives = ", ".join(f"float[batch, {goldens}, {', '.join(sides)}] {name}" for name, sides in outputs.items())
    nodes = []
    for name, sides in outputs.items():
        nodes.append(f"sides_of_{name} = Constant <value_ints = [-1, {goldens}, {', '.join(sides)}]> ()")
        nodes.append(f"{name} = Reshape ({prefix}{name}, sides_of_{name})")
    return _parse(golden, f"group ({takes}) => ({gives})", *nodes)


def _parse(like: onnx.ModelProto, signature: str, *nodes: str) -> onnx.ModelProto:
    """Return a graph in ONNX's own text form, in the versions of another."""
    opset = next(each.version for each in like.opset_import if not each.domain)
    body = "\n".join(nodes)
    text = f'<ir_version: {like.ir_version}, opset_import: ["" : {opset}]>\n{signature} {{\n{body}\n}}'
    return onnx.parser.parse_model(text)


def _type_of(value: onnx.ValueInfoProto) -> str:
    return f"float[{', '.join(_sides_of(value))}]"


def _sides_of(value: onnx.ValueInfoProto) -> list[str]:
    return [side.dim_param or str(side.dim_value) for side in value.type.tensor_type.shape.dim]


def _join(first: onnx.ModelProto, second: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Feed outputs of one graph to the inputs of the same names of another."""
    # Not `merge_models`: it wants weights in the graphs, and the whole in one file.
    graph = onnx.compose.merge_graphs(first.graph, second.graph, io_map=[(name, name) for name in names])
    versions = {each.domain: each.version for each in [*second.opset_import, *first.opset_import]}
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in versions.items()]
    joined: onnx.ModelProto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=first.ir_version)
    del joined.graph.value_info[:]  # they call the batch of both pictures of a pair by the name of one
    joined.graph.doc_string = ""
    return joined


def fix_batch(model: onnx.ModelProto, batch_size: int) -> None:
    """Let a graph take this batch only, in place."""
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = batch_size
