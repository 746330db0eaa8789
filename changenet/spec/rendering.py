"""The spec as text: the commented template, the lines of a tree, and the table of keys for the docs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

import yaml
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from changenet.spec.effects import TABLE, UNREAD_SECTIONS
from changenet.spec.keys import Key, all_keys, field_at, is_list, plain, section_at
from changenet.spec.overrides import parse_value
from changenet.spec.tree import Path, Tree, parse_path, put, show_path
from changenet.storage import write_text

# What training leaves, for those who come after it.
STARTING_VALUES = {
    f"{action}.checkpoint": "${results_dir}/train/model_best.pth" for action in ("evaluate", "inference", "export")
}
TABLE_BEGIN, TABLE_END = "<!-- keys: begin -->", "<!-- keys: end -->"


def template() -> str:
    """Return a spec of all keys at their defaults, each with its meaning and what it allows.

    Only `STARTING_VALUES` are no defaults: with them a new spec goes from training to evaluation and export as it is.
    """
    tree: Tree = {}
    for path, key in all_keys().items():
        name, is_list, _ = path.partition("[]")
        put(tree, parse_path(name), [] if is_list else STARTING_VALUES.get(path, key.default))
    head = [
        "# Experiment spec of changenet: every key at its default; only the checkpoints name what training leaves. A spec",
        "# needs only what differs from this. ${a.b} is the value of another key, ${oc.env:NAME} an environment variable,",
        "# ${eval:'2 * ${a.b}'} arithmetic. null = unset: the comment says what follows.",
    ]
    return "\n".join([*head, *lines(tree, _describe)]) + "\n"


def key_table() -> str:
    """Return the Markdown tables of all keys, a table a section."""
    groups: dict[str, list[str]] = {}
    for path, key in all_keys().items():
        section, _, name = path.rpartition(".")
        default = "required" if key.field.is_required() else f"`{flow(key.default)}`"
        effect = f" *{noted}*" if (noted := _effect(path)) else ""
        cells = (f"`{name}`", default, key.allowed, f"{key.field.description}{effect}")
        groups.setdefault(section, []).append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines = []
    for section, rows in groups.items():
        title = f"### `{section}`" if section else "### Top level"
        lines += [title, "", "| key | default | allowed | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines).strip() + "\n"


def with_key_table(page: str) -> str:
    """Return a Markdown page with the table between its two marks made anew."""
    head, _, rest = page.partition(TABLE_BEGIN)
    _, _, tail = rest.partition(TABLE_END)
    return f"{head}{TABLE_BEGIN}\n{key_table()}{TABLE_END}{tail}"


def flow(value: Any) -> str:
    """Return a value as YAML in flow form, on one line, that loads as the same value.

    >>> flow({"SolderLight": 0})
    '{SolderLight: 0}'
    """
    *candidates, last = (
        *(
            yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=plainly)
            for plainly in (True, False)
        ),
        # PyYAML leaves text such as 1e-4 unquoted, which OmegaConf reads as a number.
        *(json.dumps(value, ensure_ascii=escaped) for escaped in (False, True)),
    )
    for text in candidates:
        shown = text.removesuffix("\n").removesuffix("\n...")
        try:
            if parse_value(shown) == value:
                return shown
        except (YAMLError, OmegaConfBaseException):
            continue
    return last


def _effect(path: str) -> str:
    """Return the note on a key, or on a whole section, that changes nothing."""
    if f"{path}.".startswith(tuple(f"{section}." for section in UNREAD_SECTIONS)):
        return "No effect: this version does not segment yet."
    entry = next((entry for entry in TABLE if f"{path}.".startswith(f"{entry.path}.")), None)
    if entry is None:
        return ""
    return f"No effect: {entry.reason}." if entry.unconditional else f"No effect in some specs: {entry.reason}."


def _describe(path: Path) -> list[str]:
    field = field_at(path)
    if field is None:
        return []
    key = Key(show_path(path), field)
    marked = (*UNREAD_SECTIONS, *(entry.path for entry in TABLE if entry.unconditional))
    noted = [_effect(key.path)] if key.path in marked else []
    if section_at(path) is None:
        return [f"{field.description} ({key.allowed})", *noted]
    if is_list(field):
        inside = ", ".join(name.partition("[].")[2] for name in all_keys() if name.startswith(f"{key.path}[]."))
        return [f"{field.description} (list of mappings with {inside})"]
    return noted


def lines(tree: Mapping[str, Any], comments: Any, path: Path = (), *, above: bool = False) -> Iterator[str]:
    """Yield the lines of a tree: sections in block form, values in flow form, comments beside or above them."""
    indent = "  " * len(path)
    for name, value in tree.items():
        here = (*path, str(name))
        notes = comments(here)
        if above:
            yield from (f"{indent}# {note}" for note in notes)
        if isinstance(value, dict) and section_at(here) is not None:
            beside = f"  # {' '.join(notes)}" if notes and not above else ""
            yield f"{indent}{flow(name)}:{beside}"
            yield from lines(value, comments, here, above=above)
        else:
            beside = f"  # {' '.join(notes)}" if notes and not above else ""
            yield f"{indent}{flow(name)}: {flow(plain(value))}{beside}"


if __name__ == "__main__":
    for page in map(FilePath, sys.argv[1:]):
        write_text(page, with_key_table(page.read_text(encoding="utf-8")))
