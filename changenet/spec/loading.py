"""From a YAML file and overrides to a frozen experiment, or to every problem at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from yaml import YAMLError

from changenet.errors import ChangeNetError, Problem, SpecError
from changenet.spec import overrides, spellings
from changenet.spec.cross_checks import check
from changenet.spec.effects import without_effect
from changenet.spec.experiment import Experiment
from changenet.spec.interpolation import resolve
from changenet.spec.keys import plain
from changenet.spec.tree import Path, Tree, get, leaves, parse_path, put, remove, show_path
from changenet.spec.validation import validate
from changenet.storage import read_text

SECRET = "encryption_key"  # noqa: S105 - the name of the key, not a key
HIDDEN = "has a wrong value (not shown)"


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


@dataclass
class Reading:
    """What is known while one spec is read.

    Args:
        file: Path of the spec.
        from_overrides: Keys that the command line gave.
        problems: What is wrong so far.
        bad: The keys it is about; checks of several keys pass over them.
        changed: Old spellings that were given their modern form: (old or own path, message).
    """

    file: str
    from_overrides: set[Path] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    bad: list[Path] = field(default_factory=list)
    changed: list[tuple[Path, str]] = field(default_factory=list)

    def where(self, path: Path) -> str:
        """Return file (or command line) and key path."""
        given = any(_touches(path, key) for key in self.from_overrides)
        return f"{'command line' if given else self.file}: {show_path(path)}"

    def problem(self, path: Path, what: str, fix: str = "") -> None:
        """Note that a key is wrong."""
        if path[:1] == (SECRET,):
            what = "cannot be resolved" if "cannot be resolved" in what else HIDDEN
        self.problems.append(Problem(what, self.where(path), fix))
        self.bad.append(path)

    def change(self, path: Path, message: str) -> None:
        """Note that a key was brought into modern form."""
        self.changed.append((path, message))


def load_spec(path: str | FilePath, overrides: Sequence[str] = ()) -> LoadedSpec:
    """Read a spec file, lay `key=value` overrides over it, and check all of it.

    Args:
        path: The YAML file.
        overrides: `key=value` with values in YAML flow form; later ones win.

    Raises:
        SpecError: Anything is wrong: every problem, each with file, key path, value and what is allowed.
    """
    reading = Reading(str(path))
    tree = read_tree(reading)
    apply_overrides(reading, tree, overrides)
    experiment = build(reading, tree)
    notices = [(parse_path(notice.path), notice.message) for notice in without_effect(experiment)]
    lines = (f"{reading.where(key)}: {message}" for key, message in [*reading.changed, *notices])
    return LoadedSpec(experiment, tuple(lines), reading.file)


def read_tree(reading: Reading) -> Tree:
    """Read the file into plain values, every key by its modern name.

    Raises:
        SpecError: There is no such file, or it is not a YAML mapping.
    """
    tree: Tree = _text_keys(read_mapping(reading.file), reading.problem)
    for path, value in list(leaves(tree)):
        if value == "???":  # OmegaConf's mark for a mandatory value that nobody has given yet.
            remove(tree, path)
    spellings.modernize_keys(tree, reading.problem, reading.change)
    return tree


def read_mapping(where: str) -> dict[Any, Any]:
    """Read a YAML file into plain values, with interpolation as it is written.

    Raises:
        SpecError: There is no such file, or it is not a YAML mapping.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.create(read_text(where)), resolve=False)
    except ChangeNetError as error:
        raise SpecError(error.problems) from error
    except UnicodeDecodeError as error:
        raise SpecError("is not UTF-8 text", where=where, fix="Save the spec as UTF-8.") from error
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror or error}", where=where, fix="Check the path.") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(f"is not YAML: {reason}{line}", where=where, fix="Mend the file.") from error
    except OmegaConfBaseException as error:
        place = f"{where}: {getattr(error, 'full_key', None) or '?'}"
        if isinstance(error, GrammarParseError):
            raise SpecError("holds '${' that begins no interpolation", where=place, fix="Close it: ${a.b}.") from error
        raise SpecError(f"cannot be read: {str(error).splitlines()[0]}", where=place, fix="Mend the file.") from error
    if not isinstance(content, dict):
        raise SpecError("is a list, not a mapping of sections", where=where, fix="Start from `changenet init`.")
    if len(content) == 1 and any(" " in str(key) or "," in str(key) for key in content):  # one text: a CSV file, a note
        what = "is text, not a mapping of sections"
        raise SpecError(what, where=where, fix="Give the spec; CSV files are named in it.")
    return content


def apply_overrides(reading: Reading, tree: Tree, given: Iterable[str]) -> None:
    """Lay `key=value` texts over a tree, in place; what cannot be read becomes a problem."""
    for text in given:
        try:
            path, value = overrides.parse_override(text)
            modern = spellings.modern_path(path)
            reading.from_overrides |= {path, modern}
            nested: Tree = {}
            put(nested, modern, _text_keys(value, reading.problem, modern))
            spellings.modernize_keys(nested, reading.problem, reading.change)
            overrides.apply_override(tree, modern, get(nested, modern))
        except ValueError as error:
            shown, what = (f"{SECRET}=…", HIDDEN) if _looks_secret(text) else (text, str(error))
            fix = "Write key.path=value; lists, mappings and null in YAML flow form."
            reading.problems.append(Problem(f"{shown!r} {what}", "command line", fix))
            continue
        if modern != path:
            reading.change(path, f"is an old spelling; write {show_path(modern)}")


def build(reading: Reading, tree: Tree) -> Experiment:
    """Resolve and validate a tree (in place), and check what must fit together.

    Raises:
        SpecError: Anything is wrong, now or earlier in this reading.
    """
    if tree.get("results_dir") in (None, ""):  # unset in TAO's own spec; ${results_dir} is then our default
        tree.pop("results_dir", None)
    for path, value in list(leaves(tree)):
        if isinstance(value, str) and "${" in value:
            put(tree, path, spellings.modern_interpolation(value))
    resolve(tree, plain(Experiment()), reading.problem)
    spellings.modernize_values(tree, reading.change)
    experiment = validate(tree, reading.problem)
    for found in check(experiment):
        if not any(_touches(parse_path(key), bad) for key in found.keys for bad in reading.bad):
            reading.problems.append(Problem(found.what, reading.where(parse_path(found.keys[0])), found.fix))
    if reading.problems:
        raise SpecError(reading.problems)
    return experiment


def _touches(one: Path, other: Path) -> bool:
    return one[: len(other)] == other or other[: len(one)] == one


def _looks_secret(text: str) -> bool:
    return text.lstrip("+ ").startswith("encr")


def _text_keys(node: Any, problem: Callable[[Path, str, str], None], path: Path = ()) -> Any:
    """Return a node whose keys are all text; a key that YAML reads as true or false is a problem."""
    if isinstance(node, list):
        return [_text_keys(item, problem, (*path, str(index))) for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    texts = {}
    for name, value in node.items():
        here = (*path, str(name))
        if isinstance(name, bool):
            problem(here, f"is a key that YAML reads as {str(name).lower()}", "Put the name in quotes.")
        texts[str(name)] = _text_keys(value, problem, here)
    return texts
