"""Plain nested mappings and lists, addressed by key paths such as `quantize.layers[0].module_name`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Path = tuple[str, ...]
Tree = dict[str, Any]

_PART = re.compile(r"\[(\d+)\]")


def parse_path(text: str) -> Path:
    """Split a dotted path; list indices become parts of digits.

    >>> parse_path("quantize.layers[0].weights.dtype")
    ('quantize', 'layers', '0', 'weights', 'dtype')

    Raises:
        ValueError: A part is empty.
    """
    parts = tuple(part.strip() for part in _PART.sub(r".\1", text).split("."))
    if not all(parts):
        raise ValueError(f"{text!r} is no key path")
    return parts


def show_path(path: Path) -> str:
    """Join parts for people.

    >>> show_path(("quantize", "layers", "0", "module_name"))
    'quantize.layers[0].module_name'
    """
    shown = ""
    for part in path:
        shown += f"[{part}]" if part.isdigit() and shown else f".{part}" if shown else part
    return shown


def leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the path and value of everything that is no filled mapping or list."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    empty = True
    for name, value in items:
        empty = False
        yield from leaves(value, (*path, str(name)))
    if empty and path:
        yield path, node


def get(tree: Any, path: Path, default: Any = None) -> Any:
    """Return what is at a path, or the default."""
    for part in path:
        if isinstance(tree, Mapping) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return default
    return tree


def put(tree: Tree, path: Path, value: Any) -> None:
    """Write a value at a path, making the mappings on the way.

    Raises:
        ValueError: The way leads through a value, or past the end of a list.
    """
    node: Any = tree
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) > len(node) - (not last):
                raise ValueError(f"{show_path(path[:depth])} is a list of {len(node)} item(s)")
            if int(part) == len(node):
                node.append(None)
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
        else:
            raise ValueError(f"{show_path(path[:depth])} is a value, not a section")
        if last:
            node[index] = value
            return
        if isinstance(node, dict) and node.get(index) is None:
            node[index] = {}
        node = node[index]


def remove(tree: Tree, path: Path) -> None:
    """Delete what is at a path, or the nearest thing above it that is there (never the tree itself)."""
    while len(path) > 1 and get(tree, path, tree) is tree:
        path = path[:-1]
    parent = get(tree, path[:-1])
    if isinstance(parent, dict):
        parent.pop(path[-1], None)
    elif isinstance(parent, list):
        del parent[int(path[-1])]


def rename(tree: Tree, path: Path, name: str) -> None:
    """Give the key at a path another name, in its place."""
    parent = get(tree, path[:-1])
    items = {name if key == path[-1] else key: value for key, value in parent.items()}
    parent.clear()
    parent.update(items)


def merged(base: Any, top: Any) -> Any:
    """Lay one tree over another: mappings join, everything else is replaced."""
    if isinstance(base, Mapping) and isinstance(top, Mapping):
        return {**base, **{name: merged(base.get(name), value) for name, value in top.items()}}
    return top
