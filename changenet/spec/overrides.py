"""`key=value` on the command line: later ones win, values are YAML in flow form."""

from __future__ import annotations

import re
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from changenet.spec.keys import section_at
from changenet.spec.tree import Path, Tree, get, merged, parse_path, put

_COMPACT_KEY = re.compile(r"([{,]\s*\w+):(?=\S)")


def parse_override(text: str) -> tuple[Path, Any]:
    """Split `key=value` into its path and its value.

    >>> parse_override("train.optim.lr=1e-4")
    (('train', 'optim', 'lr'), 0.0001)
    >>> parse_override("dataset.classify.input_map={SolderLight: 0, WhiteLight: 1}")[1]
    {'SolderLight': 0, 'WhiteLight': 1}
    >>> parse_override("train.classify.cls_weight=null")[1] is None
    True

    Raises:
        ValueError: There is no `=`, no key, or the value is not YAML or has a comment after it.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip("+ "):
        raise ValueError("is not of the form key=value")
    path = parse_path(key.lstrip("+ ").rstrip())  # Hydra's +key and ++key add a key; here every key may be given.
    try:
        parsed = parse_value(value)
    except (YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(getattr(error, "problem", None) or error).splitlines()[0].split())
        raise ValueError(f"has a value that is not YAML ({reason})") from error
    return path, parsed


def parse_value(text: str) -> Any:
    """Return the value of a YAML flow text: number, text, null, list, mapping.

    >>> parse_value("{a:1,b:[2,3]}")
    {'a': 1, 'b': [2, 3]}
    """
    try:
        value = _load(text)
    except YAMLError:
        if not text.lstrip().startswith("{"):
            raise
        return _load(_spaced(text))
    compact = isinstance(value, dict) and any(item is None and ":" in str(name) for name, item in value.items())
    return _load(_spaced(text)) if compact else value


def _load(text: str) -> Any:
    source = f"value: {text}" if text.strip() else "value: null"
    if _ends_in_comment(source):
        raise YAMLError("what follows the # would be a comment: put the value in quotes")
    # OmegaConf's YAML reads 1e-4 as a number, as its spec files do.
    tree = OmegaConf.to_container(OmegaConf.create(source), resolve=False)
    if not isinstance(tree, dict) or list(tree) != ["value"]:
        raise YAMLError("more than one value")
    return tree["value"]


def _ends_in_comment(source: str) -> bool:
    """Whether a comment follows the value of a key; on a command line nobody means one."""
    node: Any = yaml.compose(source, Loader=yaml.SafeLoader)
    return source[node.value[0][1].end_mark.index :].lstrip().startswith("#")


def _spaced(text: str) -> str:
    """Give the keys of Hydra's `{a:1}` the blank that YAML needs: without, it is one key with no value."""
    return _COMPACT_KEY.sub(r"\1: ", text)


def apply_override(tree: Tree, path: Path, value: Any) -> None:
    """Write an override into the tree, in place: a mapping joins a section, and replaces any other value.

    Raises:
        ValueError: The path leads through a value.
    """
    if isinstance(value, dict) and section_at(path) is not None and isinstance(get(tree, path), dict):
        value = merged(get(tree, path), value)
    put(tree, path, value)
