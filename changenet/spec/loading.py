"""From a YAML file and overrides to a frozen experiment, or to every problem at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml import YAMLError

from changenet.errors import ChangeNetError, Problem, SpecError
from changenet.spec import cross_checks, effects, overrides, spellings
from changenet.spec.availability import unavailable, unavailable_task
from changenet.spec.experiment import Experiment
from changenet.spec.interpolation import resolve
from changenet.spec.keys import allowed, field_at, nearest, plain, section_at
from changenet.spec.tree import Path, Tree, get, leaves, parse_path, put, remove, show_path
from changenet.storage import read_text

SECRET = "encryption_key"  # noqa: S105 - the name of the key, not a key


@dataclass(frozen=True)
class LoadedSpec:
    """A spec that is right.

    Args:
        experiment: The frozen experiment.
        warnings: One line for each old spelling and each value without effect.
        path: The file it came from.
    """

    experiment: Experiment
    warnings: tuple[str, ...]
    path: str

    def require(self, *keys: str) -> None:
        """Make sure that keys which only some actions need are written.

        Raises:
            SpecError: Some are not, all of them at once.
        """
        tree = self.experiment.model_dump()
        missing = [key for key in keys if get(tree, parse_path(key)) in (None, "")]
        if missing:
            raise SpecError([Problem("is not set", f"{self.path}: {key}", f"Add {key}.") for key in missing])


@dataclass
class _Load:
    """What is known while one spec is read."""

    file: str
    from_overrides: set[Path] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    bad: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def where(self, path: Path) -> str:
        overridden = any(path[: len(given)] == given or given[: len(path)] == path for given in self.from_overrides)
        return f"{'command line' if overridden else self.file}: {show_path(path)}"

    def problem(self, path: Path, what: str, fix: str = "") -> None:
        if path[:1] == (SECRET,):
            what = "is not allowed here" if "cannot be resolved" not in what else "cannot be resolved"
        self.problems.append(Problem(what, self.where(path), fix))
        self.bad.append(path)

    def warn(self, path: Path, message: str) -> None:
        self.warnings.append(f"{self.where(path)}: {message}")


def load_spec(path: str | FilePath, overrides: Sequence[str] = (), *, builds_network: bool = True) -> LoadedSpec:
    """Read a spec file, lay `key=value` overrides over it, and check all of it.

    Args:
        path: The YAML file.
        overrides: `key=value` with values in YAML flow form; later ones win.
        builds_network: Whether the caller will build the network that the spec describes. Without, a network that is
            not available in this version is no problem (`check` looks at data only).

    Raises:
        SpecError: Anything is wrong: every problem, each with file, key path, value and what is allowed.
    """
    load = _Load(str(path))
    tree = _read(load)
    _override(load, tree, overrides)
    experiment = validate(load, tree)
    checked = [
        *unavailable_task(experiment),
        *cross_checks.check(experiment),
        *(unavailable(experiment) if builds_network else ()),
    ]
    for found in checked:
        if not any(_touches(parse_path(key), bad) for key in found.keys for bad in load.bad):
            load.problems.append(Problem(found.what, load.where(parse_path(found.keys[0])), found.fix))
    if load.problems:
        raise SpecError(load.problems)
    for key, message in effects.without_effect(experiment):
        load.warn(parse_path(key), message)
    return LoadedSpec(experiment, tuple(load.warnings), load.file)


def _touches(one: Path, other: Path) -> bool:
    return one[: len(other)] == other or other[: len(one)] == one


def _read(load: _Load) -> Tree:
    try:
        text = read_text(load.file)
        config = OmegaConf.create(text)
    except ChangeNetError as error:
        raise SpecError(error.problems) from error
    except UnicodeDecodeError as error:
        raise SpecError("is not UTF-8 text", where=load.file, fix="Save the spec as UTF-8.") from error
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror or error}", where=load.file, fix="Check the path.") from error
    except (YAMLError, OmegaConfBaseException) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(f"is not YAML ({reason}{line})", where=load.file, fix="Mend the file.") from error
    content = OmegaConf.to_container(config, resolve=False)
    if not isinstance(content, dict):
        raise SpecError("is a list, not a mapping of sections", where=load.file, fix="Start from `changenet init`.")
    tree: Tree = {str(name): _text_keys(value) for name, value in content.items()}
    for path, value in list(leaves(tree)):
        if value == "???":  # OmegaConf's mark for a mandatory value that nobody has given yet.
            remove(tree, path)
    spellings.modernize_keys(tree, load.problem, load.warn)
    return tree


def _text_keys(node: Any) -> Any:
    if isinstance(node, dict):
        return {str(name): _text_keys(value) for name, value in node.items()}
    return [_text_keys(item) for item in node] if isinstance(node, list) else node


def _override(load: _Load, tree: Tree, given: Sequence[str]) -> None:
    for text in given:
        shown = text if SECRET not in text else f"{SECRET}=…"
        try:
            path, value = overrides.parse_override(text)
            modern = spellings.modern_path(path)
            nested: Tree = {}
            put(nested, modern, _text_keys(value))
            load.from_overrides.add(modern)
            spellings.modernize_keys(nested, load.problem, load.warn)
            overrides.apply_override(tree, modern, get(nested, modern))
        except ValueError as error:
            what = str(error) if SECRET not in text else "cannot be read"
            load.problems.append(
                Problem(f"{shown!r} {what}", "command line", "Write key.path=value, with YAML flow values.")
            )
            continue
        if modern != path:
            load.warn(path, f"is an old spelling; write {show_path(modern)}")


def validate(load: _Load, tree: Tree) -> Experiment:
    """Resolve, validate, and note every problem; what is wrong is left at its default so that checks can go on."""
    for path, value in list(leaves(tree)):
        if isinstance(value, str) and "${" in value:
            put(tree, path, spellings.modern_interpolation(value))
    resolve(tree, plain(Experiment()), load.problem)
    spellings.modernize_values(tree, load.warn)
    while True:
        try:
            return Experiment.model_validate(tree)
        except ValidationError as error:
            seen: set[Path] = set()
            for details in error.errors(include_url=False, include_context=True):
                path = _key_path(details["loc"], tree)
                if path not in seen and not any(path[: len(other)] == other for other in seen):
                    seen.add(path)
                    _report(load, tree, path, details)
            for path in sorted(seen, reverse=True):
                remove(tree, path)


def _key_path(location: Sequence[int | str], tree: Tree) -> Path:
    """Return the key that an error of pydantic is about: the part of its location that names sections and keys."""
    path: Path = ()
    for part in location:
        path = (*path, str(part))
        if section_at(path) is None or get(tree, path, tree) is tree:
            break
    return path


def _report(load: _Load, tree: Tree, path: Path, details: ErrorDetails) -> None:
    value = get(tree, path)
    known = field_at(path)
    if details["type"] == "missing":
        load.problem(path, "is missing", f"Add {show_path(path)}.")
    elif known is None:
        guess = nearest(path)
        parent = section_at(path[:-1])
        choices = ", ".join(parent.model_fields) if parent else ""
        load.problem(
            path,
            f"is not a key of the spec (value {_short(value)})",
            f"Did you mean {guess}?" if guess else f"Allowed here: {choices}.",
        )
    elif details["type"] == "value_error" and "number is needed" not in details["msg"]:
        load.problem(
            path, f"is {_short(value)}: {re.sub('^Value error, ', '', details['msg'])}", f"Allowed: {allowed(known)}."
        )
    else:
        load.problem(path, f"is {_short(value)}", f"Allowed: {allowed(known)}.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
