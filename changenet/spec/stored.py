"""The spec inside a checkpoint: read for comparison alone, so what is wrong with it does not matter."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from changenet.spec import spellings
from changenet.spec.experiment import Experiment
from changenet.spec.interpolation import resolve
from changenet.spec.keys import plain
from changenet.spec.tree import Tree, leaves, put, remove
from changenet.spec.validation import validate

_RESOLVER = re.compile(r"\$\{[^}]*:")  # ${oc.env:…}: a file may not ask for what this machine knows


def read_stored(values: Mapping[str, Any]) -> Experiment:
    """Return the experiment that a stored spec (TAO's or ours) describes, as far as it can be read.

    Keys that are not known here, values that are not allowed and references that lead nowhere are left out.
    """
    tree: Tree = copy.deepcopy(dict(values))
    tree.pop("encryption_key", None)
    spellings.modernize_keys(tree, _ignore, _ignore)
    for path, value in reversed(list(leaves(tree))):  # from the end of lists, so that the indices before stay true
        if isinstance(value, str) and (value == "???" or _RESOLVER.search(value) or not _is_grammatical(value)):
            remove(tree, path)
        elif isinstance(value, str) and "${" in value:
            put(tree, path, spellings.modern_interpolation(value))
    resolve(tree, plain(Experiment()), _ignore)
    spellings.modernize_values(tree, _ignore)
    return validate(tree, _ignore)


def _is_grammatical(value: str) -> bool:
    try:
        OmegaConf.create([value])
    except OmegaConfBaseException:  # '${' begins no interpolation
        return False
    return True


def _ignore(*_: object) -> None:
    pass
