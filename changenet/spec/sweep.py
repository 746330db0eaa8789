"""The sweep file of `changenet tune`: which keys of the spec are searched, where, and how.

Everything that can be wrong with it is found before Ray starts: each key, and each value that it may take at the ends of
its range or in its list, is tried on the spec.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from changenet.errors import Problem, SpecError
from changenet.spec.cross_checks import check
from changenet.spec.dimension import KINDS, Dimension
from changenet.spec.effects import no_effect
from changenet.spec.experiment import Experiment
from changenet.spec.keys import all_keys, allowed, nearest, plain
from changenet.spec.loading import LoadedSpec, load_spec, read_mapping
from changenet.spec.rendering import flow
from changenet.spec.section import Integer, Positive, Section
from changenet.spec.spellings import modern_path
from changenet.spec.train import Monitor
from changenet.spec.tree import get, leaves, parse_path, put, show_path

DEFAULT_TRIALS = 20

_THRESHOLD = (
    "it needs no trials: after each validation the threshold is fitted on the stored scores, and best.yaml gets it"
)
_OTHER_ROWS = "trials that are validated on other rows cannot be compared"
_OWN = "every trial has its own"
_PLACE = "it says where and how a trial runs, not what comes out"
# Keys, or sections, that no trial may change, with the reason.
REFUSED: dict[str, str] = {
    "model.classify.eval_margin": _THRESHOLD,
    "evaluate.threshold": _THRESHOLD,
    "dataset.classify.validation_dataset": _OTHER_ROWS,
    "dataset.classify.classes": "trials that tell other classes apart cannot be compared",
    "dataset.classify.num_classes": "trials that tell other classes apart cannot be compared",
    "dataset.classify.workers": _PLACE,
    "train.ray": _PLACE,
    "train.num_gpus": _PLACE,
    "train.gpu_ids": _PLACE,
    "train.num_nodes": _PLACE,
    "train.tensorboard": _PLACE,
    "train.results_dir": _OWN,
    "train.resume_training_checkpoint_path": _OWN,
    "train.checkpoint_interval": "a trial keeps a checkpoint an epoch, so that it can go on",
    "train.checkpoint_interval_unit": "a trial keeps a checkpoint an epoch, so that it can go on",
}
TRAINING = ("model", "dataset", "train")


class SweepFile(Section):
    """The keys of a sweep file."""

    trials: Positive | None = Field(
        default=None, description=f"Trials in all. Unset: {DEFAULT_TRIALS}; grid: every combination."
    )
    algorithm: Literal["tpe", "random", "grid"] = Field(
        default="tpe", description="How values are chosen: tpe learns from the trials before."
    )
    scheduler: Literal["asha", "median", "none"] = Field(
        default="asha", description="How trials that fall behind are stopped."
    )
    grace_epochs: Positive = Field(default=1, description="Epochs that every trial may train.")
    seed: Annotated[Integer, Field(ge=0)] = Field(default=0, description="Seed of the choice of values.")
    max_concurrent_trials: Positive | None = Field(
        default=None, description="Trials at once. Unset: what the cluster carries."
    )
    objective: Literal["false_call_rate_at_full_recall"] | Monitor = Field(
        default="false_call_rate_at_full_recall",
        description="What is best: the default breaks ties by AUROC, then by loss.",
    )
    space: dict[str, Any] = Field(description="Keys of the spec, each with where to search.")


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
    reading = _Reading(str(path))
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


class _Reading:
    """What is known while one sweep file is read."""

    def __init__(self, file: str) -> None:
        self.file, self.problems = file, list[Problem]()

    def add(self, what: str, where: str, fix: str = "") -> None:
        self.problems.append(Problem(what, where, fix))

    def at(self, key: str) -> str:
        return f"{self.file}: {key}"

    def settings(self) -> SweepFile | None:
        """Return the file's keys, without those that are wrong; None when nothing can be read."""
        try:
            content = read_mapping(self.file)
        except SpecError as error:
            self.problems += error.problems
            return None
        fields = SweepFile.model_fields
        while True:
            try:
                return SweepFile.model_validate(content)
            except ValidationError as error:
                for details in error.errors(include_url=False, include_context=False, include_input=False):
                    name = str(details["loc"][0])
                    if name not in content and name in fields:
                        self.add("is missing", self.at(name), "Name the keys to search.")
                        return None
                    if name not in content:
                        continue
                    value = content.pop(name)
                    if name not in fields:
                        guess = difflib.get_close_matches(name, fields, n=1)
                        fix = f"Did you mean {guess[0]}?" if guess else f"Allowed here: {', '.join(fields)}."
                        self.add("is not a key of a sweep", self.at(name), fix)
                    elif name == "scheduler" and value == "pbt":
                        self.add("pbt is not there: it would change values within a run", self.at(name), "Use asha.")
                    else:
                        words = "mapping of keys to where to search" if name == "space" else allowed(fields[name])
                        self.add(f"is {value!r}", self.at(name), f"Allowed: {words}.")

    def dimensions(self, settings: SweepFile) -> dict[str, Dimension]:
        """Return where each key is searched; keys that cannot be are problems."""
        found: dict[str, Dimension] = {}
        if not settings.space:
            self.add("is empty", self.at("space"), "Name the keys to search.")
        for written, ranges in settings.space.items():
            where = self.at(f"space.{written}")
            reason = _refusal(written)
            if reason:
                self.add(*reason[:1], where, *reason[1:])
                continue
            if not isinstance(ranges, dict) or len(ranges) != 1 or next(iter(ranges)) not in KINDS:
                self.add(
                    f"is {ranges!r}", where, f"Allowed: one of {', '.join(KINDS)}, such as {{uniform: [0.1, 0.5]}}."
                )
                continue
            ((kind, options),) = ranges.items()
            try:
                dimension = Dimension.read(kind, options)
            except ValueError as error:
                self.add(str(error), where)
                continue
            if settings.algorithm == "grid" and not dimension.listed:
                self.add(f"{kind} is no list of values", where, "algorithm grid needs grid or choice.")
            elif settings.algorithm != "grid" and kind == "grid":
                self.add("grid needs algorithm grid", where, "Write choice, or algorithm: grid.")
            else:
                found[show_path(modern_path(parse_path(written)))] = dimension
        if settings.algorithm == "grid" and settings.trials is not None:
            self.add("algorithm grid tries every combination", self.at("trials"), "Leave it out.")
        return found


def _refusal(written: str) -> tuple[str, str] | None:
    """Return why a key cannot be searched and what to do, or None."""
    try:
        path = modern_path(parse_path(written))
    except ValueError as error:
        return str(error), "Write it as in an override: train.optim.lr."
    key = show_path(path)
    covered = (why for refused, why in REFUSED.items() if f"{key}.".startswith(f"{refused}."))
    if (why := next(covered, None)) is not None:
        return f"cannot be searched: {why}", "Leave it out of the space."
    if key not in all_keys():
        guess = nearest(path)
        return "is not a key of the spec", f"Did you mean {guess}?" if guess else ""
    if path[0] not in TRAINING:
        return "cannot be searched: it changes nothing in training", f"Keys of {', '.join(TRAINING)} can be."
    return None


class _Tried:
    """Tries the values of a sweep on its spec."""

    def __init__(self, reading: _Reading, base: Experiment, load: Callable[[str], Experiment]) -> None:
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
