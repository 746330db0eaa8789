"""The sweep file of `changenet tune`: which keys of the spec are searched, where, and how.

Everything that can be wrong with it is found before Ray starts: each key, and each value that it may take at the ends of
its range or in its list, is tried on the spec.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from changenet.errors import Problem, SpecError
from changenet.spec.cross_checks import check
from changenet.spec.dimension import Dimension
from changenet.spec.effects import no_effect
from changenet.spec.experiment import Experiment
from changenet.spec.keys import plain
from changenet.spec.loading import LoadedSpec, load_spec
from changenet.spec.rendering import flow
from changenet.spec.sweep_file import SweepFile, SweepReading
from changenet.spec.tree import get, leaves, parse_path, put, show_path


@dataclass(frozen=True)
class Sweep:
    """A sweep that fits its spec.

    Args:
        settings: The file's own keys.
        dimensions: Where each key is searched, by its path.
        path: The file.
    """

    settings: SweepFile
    dimensions: Mapping[str, Dimension]
    path: str

    @property
    def shape(self) -> dict[str, Any]:
        """What has to stay while a sweep goes on: values that are chosen otherwise make another sweep."""
        names = ("algorithm", "seed", "objective")
        space = {key: {each.kind: list(each.options)} for key, each in self.dimensions.items()}
        return {**{name: getattr(self.settings, name) for name in names}, "space": space}

    def values(self, experiment: Experiment, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a point that a search algorithm chose, without those that have no effect beside the others.

        Args:
            experiment: The spec.
            point: A value of each range, the number of a value of each list, by key.
        """
        values = {key: dimension.value(point[key]) for key, dimension in self.dimensions.items()}
        changed = _put(experiment, values)
        return {key: value for key, value in values.items() if no_effect(key, changed) is None}

    def grid(self, experiment: Experiment) -> list[dict[str, Any]]:
        """Return the points of a grid; of those that differ only in keys without effect, the first."""
        numbers = (range(len(dimension.options)) for dimension in self.dimensions.values())
        points = [dict(zip(self.dimensions, point, strict=True)) for point in itertools.product(*numbers)]
        distinct: dict[str, dict[str, Any]] = {}
        for point in points:
            distinct.setdefault(repr(self.values(experiment, point)), point)
        return list(distinct.values())


def load_sweep(path: str | FilePath, spec: str | FilePath, overrides: Sequence[str] = ()) -> tuple[Sweep, LoadedSpec]:
    """Read a sweep file and its spec, and try everything that the sweep may choose on the spec.

    Args:
        path: The sweep file.
        spec: The experiment spec.
        overrides: `key=value` over the spec.

    Returns:
        The sweep, and the spec with one more warning for each key that has no effect in any trial.

    Raises:
        SpecError: Anything is wrong with either: every problem.
    """
    reading = SweepReading(str(path))
    settings = reading.settings()
    dimensions = reading.dimensions(settings) if settings else {}
    try:
        loaded = load_spec(spec, overrides)
    except SpecError as error:
        raise SpecError([*reading.problems, *error.problems]) from error
    tried = _Tried(reading, loaded.experiment, lambda text: load_spec(spec, [*overrides, text]).experiment)
    dimensions = {key: tried.dimension(key, dimension) for key, dimension in dimensions.items()}
    if loaded.experiment.train.resume_training_checkpoint_path:
        reading.add(
            "trials start from the first epoch", f"{spec}: train.resume_training_checkpoint_path", "Leave it out."
        )
    if settings is None or reading.problems:
        raise SpecError(reading.problems)
    sweep = Sweep(settings, dimensions, str(path))
    return sweep, LoadedSpec(loaded.experiment, (*loaded.warnings, *tried.warnings(dimensions)), loaded.path)


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Return the spec with other values of some keys.

    Raises:
        SpecError: They do not fit together: every problem.
    """
    changed = _put(experiment, values)
    problems = [Problem(found.what, found.keys[0], found.fix) for found in check(changed)]
    if problems:
        raise SpecError(problems)
    return changed


def _put(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    tree = plain(experiment.model_dump(exclude_unset=True))  # what was never written goes on following from the rest
    for key, value in values.items():
        put(tree, parse_path(key), value)
    return Experiment.model_validate(tree)


class _Tried:
    """Tries the values of a sweep on its spec."""

    def __init__(self, reading: SweepReading, base: Experiment, load: Callable[[str], Experiment]) -> None:
        self._reading, self._base, self._load = reading, base, load

    def dimension(self, key: str, dimension: Dimension) -> Dimension:
        """Return the dimension with its values as the spec reads them; what the spec refuses becomes a problem."""
        path, where, read = parse_path(key), self._reading.at(f"space.{key}"), []
        said: set[str] = set()
        for value in dimension.probes:
            try:
                loaded = self._load(f"{key}={flow(value)}")
            except SpecError as error:
                for problem in error.problems:
                    own = problem.where.endswith(f": {key}")
                    what = problem.what if own else f"{flow(value)} does not fit the spec: {problem}"
                    if what not in said:
                        self._reading.add(what, where, problem.fix if own else "")
                    said.add(what)
                continue
            values = loaded.model_dump()
            read.append(plain(get(values, path)))
            followers = _differing(values, _put(self._base, {key: read[-1]}).model_dump())
            if followers and "followers" not in said:
                said.add("followers")
                fix = "Write their values out, or search them instead."
                self._reading.add(f"cannot be searched: {', '.join(followers)} follow it by interpolation", where, fix)
        return Dimension(dimension.kind, tuple(read)) if dimension.listed else dimension

    def warnings(self, dimensions: Mapping[str, Dimension]) -> Iterator[str]:
        """Yield a line for each key that changes nothing, whatever the other keys are."""
        others: list[dict[str, Any]] = [{}] + [
            {key: value} for key, each in dimensions.items() if each.listed for value in each.options
        ]
        specs = [_put(self._base, values) for values in others]
        for key in dimensions:
            reasons = [no_effect(key, spec) for spec in specs]
            if all(reasons):
                yield f"{self._reading.at(f'space.{key}')}: has no effect in any trial: {reasons[0]}"


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    there = dict(leaves(plain(other)))
    return [show_path(path) for path, value in leaves(plain(one)) if there.get(path, value) != value]
