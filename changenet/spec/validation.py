"""From plain values to an experiment by pydantic, with every error in words that name the key and what it allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from changenet.spec.experiment import Experiment
from changenet.spec.keys import allowed, field_at, nearest, section_at
from changenet.spec.tree import Path, Tree, get, remove, show_path

LONGEST_VALUE = 80


def validate(tree: Tree, problem: Callable[[Path, str, str], None]) -> Experiment:
    """Return the experiment; what is wrong is reported and left at its default, so that later checks can go on.

    Args:
        tree: Plain values by modern names, interpolation resolved; wrong values are removed from it.
        problem: Called with (path, what, fix), once a key.
    """
    while True:
        try:
            return Experiment.model_validate(tree)
        except ValidationError as error:
            wrong: dict[Path, str] = {}
            for details in error.errors(include_url=False, include_context=False, include_input=False):
                wrong.setdefault(_key_path(details["loc"], tree), details["type"])
            for path, kind in wrong.items():
                problem(path, *_explain(path, kind, get(tree, path)))
            # From the end of lists, so that the indices before stay true.
            for path in sorted(wrong, key=lambda path: [(len(part), part) for part in path], reverse=True):
                remove(tree, path)


def _key_path(location: Sequence[int | str], tree: Tree) -> Path:
    """Return the key that an error is about: the part of its location that names sections and keys."""
    path: Path = ()
    for part in location:
        path = (*path, str(part))
        if section_at(path) is None or get(tree, path, tree) is tree:
            break
    return path


def _explain(path: Path, kind: str, value: Any) -> tuple[str, str]:
    """Return what is wrong with a value and what to do."""
    if kind == "missing":
        return "is missing", f"Add {show_path(path)}."
    known = field_at(path)
    if known is not None:
        quotes = " Put it in quotes." if kind == "string_type" and isinstance(value, int | float) else ""
        return f"is {_short(value)}", f"Allowed: {allowed(known)}.{quotes}"
    guess = nearest(path)
    if guess == "encryption_key":
        return "is not a key of the spec (value not shown)", f"Did you mean {guess}?"
    parent = section_at(path[:-1])
    fix = f"Did you mean {guess}?" if guess else f"Allowed here: {', '.join(parent.model_fields) if parent else ''}."
    return f"is not a key of the spec (value {_short(value)})", fix


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
