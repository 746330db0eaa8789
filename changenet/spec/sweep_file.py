"""The sweep file of `changenet tune` as it is written: its own keys, and which keys of the spec it searches where."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from changenet.errors import Problem, SpecError
from changenet.spec.dimension import KINDS, Dimension
from changenet.spec.keys import all_keys, allowed, nearest
from changenet.spec.loading import read_mapping
from changenet.spec.section import Integer, Positive, Section
from changenet.spec.spellings import modern_path
from changenet.spec.train import Monitor
from changenet.spec.tree import parse_path, show_path

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


class SweepReading:
    """What is known while one sweep file is read."""

    def __init__(self, file: str) -> None:
        self.file, self.problems = file, list[Problem]()

    def add(self, what: str, where: str, fix: str = "") -> None:
        """Note a problem."""
        self.problems.append(Problem(what, where, fix))

    def at(self, key: str) -> str:
        """Return where a key of the file is."""
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
                    elif name in ("scheduler", "algorithm") and value == "pbt":
                        what = "pbt is not there: its winner is a schedule, not values that a spec could hold"
                        self.add(what, self.at(name), f"Allowed: {allowed(fields[name])}.")
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
