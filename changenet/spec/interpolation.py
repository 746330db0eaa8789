"""`${a.b}`, `${oc.env:NAME}`, `${eval:…}` and `${file:…}` in a spec, by OmegaConf.

`eval` is arithmetic and nothing else; `file` reads the passphrase of `encryption_key` and nothing else.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from changenet import passphrase
from changenet.spec.tree import Path, Tree, get, leaves, merged, put

LONGEST_EXPRESSION = 200
LARGEST_EXPONENT = 64
# OmegaConf 2.4 renamed it and warns about the old name; 2.3 has only the old one.
_register = getattr(OmegaConf, "register_resolver", None) or OmegaConf.register_new_resolver
_FILE = re.compile(r"\$\{\s*file\s*:")
_RAISED = re.compile(r"^\w+ raised while resolving interpolation: ")
_UNSET = re.compile("Environment variable '(.*)' not found")
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def arithmetic(expression: object) -> int | float:
    """Return the value of an expression of numbers, `+ - * / // % **` and brackets.

    >>> arithmetic("(128 + 2) * 2")
    260

    Raises:
        ValueError: It holds anything else, is too long, or has no value.
    """
    text = str(expression)
    if len(text) > LONGEST_EXPRESSION:
        raise ValueError(f"an expression may have {LONGEST_EXPRESSION} characters")
    try:
        value = _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} cannot be computed: {error}") from error
    return value


def _value(node: ast.expr) -> int | float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            return _number(_UNARY[type(sign)](_value(operand)))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, exponent = _value(left), _value(right)
            if abs(exponent) > LARGEST_EXPONENT or abs(base) > 1e6:
                raise ValueError("a power may have a base up to 1e6 and an exponent up to 64")
            return _number(base**exponent)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            return _number(_BINARY[type(sign)](_value(left), _value(right)))
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is not arithmetic: numbers, + - * / // % ** and brackets only")


def _number(value: Any) -> int | float:
    if not isinstance(value, int | float):
        raise ValueError("the result is no real number")
    return value


def resolve(tree: Tree, defaults: Tree, problem: Callable[[Path, str, str], None]) -> None:
    """Replace every interpolation of a tree by its value, in place; those that fail are reported and removed.

    Args:
        tree: The spec as plain values, without its defaults.
        defaults: What `${a.b}` finds where the spec says nothing.
        problem: Called with (path, what, fix).
    """
    written = [(path, value) for path, value in leaves(tree) if isinstance(value, str) and "${" in value]
    if not written:
        return
    _register("eval", arithmetic, replace=True)
    _register("file", passphrase.from_file, replace=True)
    everything = OmegaConf.create(merged(defaults, tree))
    failed = []
    for path, text in written:
        if "encryption_key" in text:
            problem(path, f"is {text!r}, which would copy a secret", "Use ${oc.env:NAME} for encryption_key alone.")
            failed.append(path)
            continue
        if _FILE.search(text) and path != ("encryption_key",):
            problem(path, f"is {text!r}: the content of a file", "Only encryption_key may be read from a file.")
            failed.append(path)
            continue
        try:
            put(tree, path, _select(everything, path))
        except (OmegaConfBaseException, ValueError, RecursionError) as error:
            reason = "it refers to itself" if isinstance(error, RecursionError) else _reason(error)
            fix = "Use ${key.path}, ${oc.env:NAME} or ${eval:'1 + 2'}."
            if variable := _UNSET.match(reason):
                fix = f"Set the variable before you run this: export {variable[1]}=VALUE."
            elif _FILE.search(text):
                fix = "${file:PATH} names a readable file that holds the passphrase alone, on one line."
            problem(path, f"is {text!r}, which cannot be resolved: {reason}", fix)
            failed.append(path)
    for path in reversed(failed):
        parent = get(tree, path[:-1]) if len(path) > 1 else tree
        if isinstance(parent, dict):
            parent.pop(path[-1], None)
        else:
            put(tree, path, None)


def _reason(error: Exception) -> str:
    return _RAISED.sub("", str(error).splitlines()[0].strip()).strip('"')


def _select(config: DictConfig | ListConfig, path: Path) -> Any:
    node: Any = config
    for part in path:
        node = node[int(part)] if isinstance(node, ListConfig) else node[part]
    if isinstance(node, DictConfig | ListConfig):
        return OmegaConf.to_container(node, resolve=True)
    return node
