"""Number formats for single nodes: `gen_trt_engine.tensorrt.layers_precision`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import onnx
from onnx import TensorProto

from changenet.errors import EngineError

FORMATS: dict[str, int] = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
RULES_KEY = "gen_trt_engine.tensorrt.layers_precision"
_SECOND_ENCODER = "of_golden_"  # before the names of golden.onnx in pair.onnx


class Rule(NamedTuple):
    """A format for the nodes whose name matches a pattern (`*` stands for anything); later rules win."""

    pattern: str
    precision: str


def parse_rules(texts: Iterable[str]) -> tuple[Rule, ...]:
    """Read `gen_trt_engine.tensorrt.layers_precision`: `NAME:PRECISION` each.

    >>> parse_rules(["encoder/*:fp16"])
    (Rule(pattern='encoder/*', precision='fp16'),)

    Raises:
        EngineError: A text has another form, or its format is none of `FORMATS`.
    """
    rules = []
    for text in texts:
        pattern, colon, precision = text.rpartition(":")
        precision = precision.strip().lower()
        if not colon or not pattern or precision not in FORMATS:
            fix = f"Write NAME:PRECISION with {', '.join(FORMATS)}; int8 and fp8 come from changenet quantize."
            raise EngineError(f"{text!r} names no layer with its precision", where=RULES_KEY, fix=fix)
        rules.append(Rule(pattern.strip(), precision))
    return tuple(rules)


def check_rules(rules: Sequence[Rule], graphs: Iterable[onnx.ModelProto]) -> None:
    """Make sure that every rule names a node (raises EngineError with the nearest names)."""
    names = sorted({plain_name(node.name) for graph in graphs for node in graph.graph.node if node.name})
    for rule in rules:
        if not any(fnmatchcase(name, rule.pattern) for name in names):
            near = difflib.get_close_matches(rule.pattern, names, n=3, cutoff=0.3) or names[:3]
            what = f"no layer matches {rule.pattern!r}"
            raise EngineError(what, where=RULES_KEY, fix=f"There are, for example: {', '.join(near)}.")


def plain_name(name: str) -> str:
    """Return the name of a node without what `pair.onnx` puts before it."""
    return name.removeprefix(_SECOND_ENCODER)
