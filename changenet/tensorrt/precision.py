"""The number format of every node of an ONNX graph, written into the graph itself.

TensorRT then builds what the graph says (strongly typed), the same in every version: nothing is lowered unseen. Which
nodes are lowered follows PyTorch's autocast: convolutions and matrix products, and what stands between them; sums over
many values, norms and powers keep 32 bits. Inputs and outputs of a graph keep their types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from changenet.errors import EngineError
from changenet.tensorrt import weights
from changenet.tensorrt.rules import FORMATS, Rule, plain_name

_LOWERED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_FOLLOWING = frozenset(
    [
        "Abs",
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Clip",
        "Concat",
        "Div",
        "Elu",
        "Erf",
        "Expand",
        "Flatten",
        "Gather",
        "Gelu",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Max",
        "MaxPool",
        "Min",
        "Mul",
        "Neg",
        "PRelu",
        "Pad",
        "Relu",
        "Reshape",
        "Resize",
        "Sigmoid",
        "Slice",
        "Softmax",
        "Split",
        "Squeeze",
        "Sub",
        "Tanh",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
)
_TYPED = frozenset(
    ["Cast", "CastLike", "ConstantOfShape", "DequantizeLinear", "QuantizeLinear"]
)  # they say their own type
_KEPT_INPUTS = {"Resize": (1, 2)}  # region and scales, which ONNX wants in 32 bits
_FP16_MAX = 65504.0
TYPE_KEY = "gen_trt_engine.tensorrt.data_type"
NO_FILES: Mapping[str, bytes] = MappingProxyType({})


def quantized_format(graph: onnx.ModelProto, files: Mapping[str, bytes] = NO_FILES) -> str | None:
    """Return `int8` or `fp8` for a graph with quantized layers that TensorRT can run, None for one without any.

    Args:
        graph: With or without its weights.
        files: Those of the weights that lie beside it, by name.

    Raises:
        EngineError: Its layers are quantized in a way that only CPUs can run.
    """
    tensors = _constants(graph)
    found = set()
    for node in graph.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = tensors.get(node.input[2]) if len(node.input) > 2 else None
        kind = TensorProto.INT8 if zero is None else zero.data_type
        if kind == TensorProto.FLOAT8E4M3FN:
            found.add("fp8")
            continue
        if kind != TensorProto.INT8 or (zero is not None and weights.array(zero, files).any()):
            what = "its layers are quantized for CPUs (a zero that is not at 0), and TensorRT cannot run that"
            fix = "Quantize the checkpoint with quantize.backend: modelopt.pytorch, and export that."
            raise EngineError(what, where="the ONNX graphs (gen_trt_engine.onnx_file)", fix=fix)
        found.add("int8")
    return "fp8" if "fp8" in found else next(iter(found), None)


def agreed_format(asked: str, models: Mapping[str, onnx.ModelProto], files: Mapping[str, bytes], folder: str) -> str:
    """Return the format to build in: the one asked for, or the one that the graphs are quantized to.

    Args:
        asked: `fp32` leaves quantized graphs as they are.
        models: By name.
        files: As in `quantized_format`.
        folder: Where the graphs lie, for messages.

    Raises:
        EngineError: The graphs are quantized to another format, or are not and should be.
    """
    quantized = {found for model in models.values() if (found := quantized_format(model, files))}
    graphs = f"the graphs of {folder}" if folder else "the graphs"
    stored = "fp8" if "fp8" in quantized else next(iter(quantized), None)
    if stored is None and asked in ("int8", "fp8"):
        what = f"is {asked}, and {graphs} are not quantized to it"
        dtype = "fp8_e4m3fn" if asked == "fp8" else asked
        fix = f"Run changenet quantize with backend: modelopt.pytorch and dtype: {dtype}, and export the result."
        raise EngineError(what, where=TYPE_KEY, fix=fix)
    if stored is not None and asked not in (stored, "fp32"):
        what = f"is {asked}, and {graphs} are quantized to {stored}"
        raise EngineError(what, where=TYPE_KEY, fix=f"Write {stored}, or export the checkpoint that is not quantized.")
    return stored or asked


def with_precision(
    graph: onnx.ModelProto, precision: str, rules: Sequence[Rule] = (), *, files: Mapping[str, bytes] = NO_FILES
) -> onnx.ModelProto:
    """Return a copy of a graph of 32-bit floats whose nodes compute in another format.

    Args:
        graph: Not changed. Its names are unique.
        precision: Of all nodes that gain by it: one of `FORMATS`.
        rules: Formats of single nodes, whatever they compute.
        files: Weights that lie beside it, by name of the file; those that change come into the graph.
    """
    if precision == "fp32" and not rules:
        return graph
    return _Lowering(graph, precision, rules, files).run()


class _Lowering:
    def __init__(
        self, graph: onnx.ModelProto, precision: str, rules: Sequence[Rule], files: Mapping[str, bytes]
    ) -> None:
        self._files = files
        self._model = onnx.ModelProto()
        self._model.CopyFrom(graph)
        self._default, self._rules = FORMATS[precision], rules
        inferred = onnx.shape_inference.infer_shapes(graph).graph
        self._floats = {
            value.name
            for value in [*inferred.input, *inferred.output, *inferred.value_info]
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self._constants = _constants(graph)
        self._floats |= {name for name, each in self._constants.items() if each.data_type == TensorProto.FLOAT}
        self._nodes: list[onnx.NodeProto] = []
        self._formats: dict[str, int] = {}  # of tensors that are not in 32 bits
        self._names: dict[tuple[str, int], str] = {}  # of a tensor in a format

    def run(self) -> onnx.ModelProto:
        graph = self._model.graph
        for node in graph.node:
            self._add(node, self._format(node))
        for output in graph.output:
            if output.name in self._formats:
                self._named(output.name, TensorProto.FLOAT)
        del graph.node[:]
        graph.node.extend(self._nodes)
        del graph.value_info[:]
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        kept = [each for each in graph.initializer if each.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return self._model

    def _format(self, node: onnx.NodeProto) -> int:
        if node.op_type in _TYPED or not any(name in self._floats for name in node.input):
            return int(TensorProto.FLOAT)
        rule = next((each for each in reversed(self._rules) if fnmatchcase(plain_name(node.name), each.pattern)), None)
        lowers = node.op_type in _LOWERED
        follows = node.op_type in _FOLLOWING and any(name in self._formats for name in node.input)
        wanted: int = FORMATS[rule.precision] if rule else self._default if lowers or follows else TensorProto.FLOAT
        # A mask of -3e38 would become infinite, and infinite times zero is no number.
        overflows = wanted == TensorProto.FLOAT16 and any(map(self._is_too_large, node.input))
        return int(TensorProto.FLOAT) if overflows else wanted

    def _is_too_large(self, name: str) -> bool:
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            return False
        return bool(np.max(np.abs(weights.array(tensor, self._files)), initial=0) > _FP16_MAX)

    def _add(self, node: onnx.NodeProto, wanted: int) -> None:
        """Append a node that computes in a format, after casts of what it takes."""
        kept = _KEPT_INPUTS.get(node.op_type, ())
        fresh = onnx.NodeProto()
        fresh.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name in self._floats:
                fresh.input[place] = self._named(name, TensorProto.FLOAT if place in kept else wanted)
        if wanted != TensorProto.FLOAT:
            for place, name in enumerate(node.output):
                if name in self._floats:
                    fresh.output[place] = self._names[name, wanted] = _in_format(name, wanted)
                    self._formats[name] = wanted
        self._nodes.append(fresh)

    def _named(self, name: str, wanted: int) -> str:
        """Return the name of a tensor in a format; a cast or a constant of that format is added where there is none."""
        is_format = self._formats.get(name, TensorProto.FLOAT)
        if is_format == wanted and is_format == TensorProto.FLOAT:
            return name
        if (name, wanted) in self._names:
            return self._names[name, wanted]
        cast = name if wanted == TensorProto.FLOAT else _in_format(name, wanted)
        self._names[name, wanted] = cast
        if (tensor := self._constants.get(name)) is not None:
            values = weights.array(tensor, self._files).astype(helper.tensor_dtype_to_np_dtype(wanted))
            self._model.graph.initializer.append(numpy_helper.from_array(values, cast))
        else:
            source = self._names.get((name, is_format), name)
            self._nodes.append(helper.make_node("Cast", [source], [cast], name=f"{cast}/Cast", to=wanted))
        return cast


def _in_format(name: str, wanted: int) -> str:
    return f"{name}/{TensorProto.DataType.Name(wanted).lower()}"


def _constants(graph: onnx.ModelProto) -> Mapping[str, TensorProto]:
    found = {each.name: each for each in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
                elif attribute.name == "value_float":
                    found[node.output[0]] = numpy_helper.from_array(np.float32(attribute.f))
    return found
