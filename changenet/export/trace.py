"""The traced pieces of a network: each by itself, with a free batch, under names that say where a node comes from."""

from __future__ import annotations

import ast
import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
import onnx.compose
import onnx.parser
import torch
from torch import Tensor, nn

from changenet.bundle import WEIGHTS
from changenet.export.resizing import TRANSLATIONS

if TYPE_CHECKING:
    from changenet.model.network import ChangeNet

MIN_OPSET = 18
ONNX_LIMIT = 2**31 - 2**26  # bytes of one protobuf message, less what nodes and names take
_SMALL = 1024  # bytes; less stays in the graph, where shape inference can see it
_EXAMPLES = 2  # a batch of one would be frozen into the graph as a constant


class _Encode(nn.Module):
    def __init__(self, network: ChangeNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, normalised: Tensor) -> tuple[Tensor, ...]:
        return self.network.encode(normalised)


class _PrepareGolden(_Encode):
    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # type: ignore[override]
        return self.network.prepare_golden(features)


class _Compare(_Encode):
    def forward(self, test: tuple[Tensor, ...], golden: tuple[Tensor, ...]) -> Tensor:  # type: ignore[override]
        return self.network.compare(test, golden)


@dataclass(frozen=True)
class Parts:
    """A network in pieces, of which `assemble` makes the graphs of a bundle. A node of a layer begins with its name.

    Args:
        normalise: Picture, uint8 -> `normalised`.
        encoder: `normalised` -> `features_…`.
        golden: `features_…` -> `golden_…`; None for a euclidean network.
        comparator: `test_…`, `golden_…` -> `output`.
        image_size: Height and width of a picture.
        goldens: That a test is compared with.
        weights: Content of the file `WEIGHTS` that the pieces share; empty where each holds its own.
    """

    normalise: onnx.ModelProto
    encoder: onnx.ModelProto
    golden: onnx.ModelProto | None
    comparator: onnx.ModelProto
    image_size: tuple[int, int]
    goldens: int
    weights: bytes = b""


@torch.inference_mode(False)
def trace_parts(network: ChangeNet, *, opset: int = MIN_OPSET) -> Parts:
    """Return the traced pieces of a network (arguments as `export_graphs`)."""
    weights = sum(each.numel() * each.element_size() for each in network.state_dict().values())
    apart = bytearray() if weights >= ONNX_LIMIT else None
    network.eval()
    # Two different pictures: the exporter takes one tensor given twice for one input.
    goldens = network.num_golden
    pictures = [
        torch.randint(0, 256, (count, 3, *network.image_size), dtype=torch.uint8)
        for count in (_EXAMPLES, _EXAMPLES * goldens)
    ]
    with torch.no_grad():
        test, golden = (network.encode(network.normalise(picture)) for picture in pictures)
        halves = network.prepare_golden(golden)
        if goldens > 1:
            halves = tuple(half.reshape(_EXAMPLES, goldens, *half.shape[1:]) for half in halves)
    features = [f"features_{level}" for level in range(len(test))]
    test_names = [f"test_{level}" for level in range(len(test))]
    golden_names = [f"golden_{level}" for level in range(len(test))]
    normalised = network.normalise(pictures[0])
    body = _trace("encoder", _Encode(network), (normalised,), ["normalised"], features, opset)
    _take_weights(body, apart)
    normalise = _trace("normalise", network.normalise, (pictures[0],), ["picture"], ["normalised"], opset)
    comparator = _trace(
        "comparator", _Compare(network), (test, halves), [*test_names, *golden_names], ["output"], opset
    )
    _take_weights(comparator, apart)
    golden_part = None
    if network.difference_module == "learnable":
        golden_part = _trace("golden", _PrepareGolden(network), (test,), features, golden_names, opset)
        _take_weights(golden_part, apart)
    return Parts(normalise, body, golden_part, comparator, network.image_size, goldens, bytes(apart or b""))


def _take_weights(model: onnx.ModelProto, apart: bytearray | None) -> None:
    """Move the large weights of a graph to the end of `apart`, in place; None leaves them."""
    if apart is None:
        return
    for weight in model.graph.initializer:
        if len(weight.raw_data) < _SMALL:
            continue
        place = {"location": WEIGHTS, "offset": str(len(apart)), "length": str(len(weight.raw_data))}
        apart += weight.raw_data
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, value in place.items():
            weight.external_data.add(key=key, value=value)


def _trace(
    part: str,
    module: nn.Module,
    examples: tuple[Tensor | tuple[Tensor, ...], ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
) -> onnx.ModelProto:
    """Trace a module with a free batch on every input; inner names begin with the name of the part."""
    batch = {0: torch.export.Dim("batch", min=1)}
    free = tuple(tuple(batch for _ in each) if isinstance(each, tuple) else batch for each in examples)
    with _quiet(), _out_of_place(module), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            examples,
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=free,
            input_names=list(inputs),
            output_names=list(outputs),
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _order_gelu(model.graph)
    for node in model.graph.node:
        node.name = f"{_layer_of(node)}/{node.name}"
    # The exporter notes source lines, with the paths of this machine, at every node.
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for each in [*model.graph.node, *model.graph.input, *model.graph.output]:
        del each.metadata_props[:]
        each.doc_string = ""
    model.graph.name = part
    return onnx.compose.add_prefix(model, f"{part}/", rename_inputs=False, rename_outputs=False, inplace=True)


def _order_gelu(graph: onnx.GraphProto) -> None:
    """Write x * (0.5 * (1 + erf)) as (x * (1 + erf)) * 0.5, in place: ONNX Runtime knows a GELU (before opset 20) by that."""
    made = {name: node for node in graph.node for name in node.output}
    numbers = {each.name for each in graph.initializer if not each.dims}
    for node in graph.node:
        if node.op_type != "Mul" or len(node.input) != 2:
            continue
        half = made.get(node.input[1])
        if half is None or half.op_type != "Mul" or half.input[0] not in numbers:
            continue
        one_more = made.get(half.input[1])
        if one_more is not None and one_more.op_type == "Add" and _is_erf(made.get(one_more.input[0])):
            number, values = half.input[0], node.input[0]
            half.input[:] = [values, half.input[1]]
            node.input[:] = [node.input[1], number]


def _is_erf(node: onnx.NodeProto | None) -> bool:
    return node is not None and node.op_type == "Erf"


def _layer_of(node: onnx.NodeProto) -> str:
    """Return the name of the layer that a node computes, which the exporter notes as a list of the layers around it."""
    noted = {each.key: each.value for each in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "[]")
    around: list[str] = ast.literal_eval(noted)
    return around[-2].removeprefix("network.") if len(around) > 1 else ""


@contextlib.contextmanager
def _out_of_place(module: nn.Module) -> Iterator[None]:
    """Let activations return new tensors: the exporter takes in-place ones apart at ten times the cost."""
    in_place = [each for each in module.modules() if getattr(each, "inplace", False)]
    for each in in_place:
        each.inplace = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for each in in_place:
            each.inplace = True  # type: ignore[assignment]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes to its developers from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
