"""What network a TAO checkpoint holds: what the spec beside it says, and where that is silent, the spec inside it.

TAO's trainer leaves the spec of the training in the file. A key that the user leaves out means what it meant there, as
with our own checkpoints; a key that the user writes and that says something else is a contradiction.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from changenet.agreement import ARGUMENTS, compare, facts, filled, written
from changenet.description import ModelDescription
from changenet.errors import ChangeNetError, Problem, SpecError
from changenet.factory import describe, describe_tao, network_arguments
from changenet.model.catalogue import CATALOGUE, IMAGENET_MEAN, IMAGENET_STD
from changenet.spec import Experiment
from changenet.spec.cross_checks import check
from changenet.spec.keys import CLASSIFY, DATA, plain
from changenet.spec.stored import read_stored

if TYPE_CHECKING:
    from changenet.model.tao_file import TaoCheckpoint

logger = logging.getLogger(__name__)

# What null or nothing means in every release of TAO, where no tensor shows it (reference 2.4).
_TAO_DEFAULTS: dict[str, Any] = {"concat_type": "linear", "num_golden": 1}
_TAO_STATISTICS = {"rgb_input_mean": list(IMAGENET_MEAN), "rgb_input_std": list(IMAGENET_STD)}
# Taken over, too; but to write something else is no contradiction: files may move, and a margin is no network.
_TAKEN_OVER = (f"{DATA}.image_ext", f"{CLASSIFY}.train_margin_euclid")


@dataclass(frozen=True)
class SpecDescribes:
    """Describes a TAO checkpoint by the spec that is given with it, completed from the one inside the file.

    Args:
        experiment: The spec.
        path: Of the checkpoint, for messages.

    Raises:
        SpecError: Keys that are written contradict the spec inside, or do not fit what is taken from it: all of them.
    """

    experiment: Experiment
    path: str

    def __call__(self, tao: TaoCheckpoint) -> ModelDescription:
        """Return the description, and say which keys came from the file."""
        inside = spec_inside(tao)
        return describe_tao(completed(self.experiment, inside, self.path) if inside else self.experiment, self.path)


def spec_inside(tao: TaoCheckpoint) -> Experiment | None:
    """Return the spec of a TAO checkpoint's training as far as it can be read; None where nothing of it can be used."""
    if not tao.spec:
        return None
    spec = copy.deepcopy(tao.spec)
    if isinstance(data := spec["dataset"].get("classify"), dict):
        _set_unset(data, _TAO_DEFAULTS)
        if data.get("augmentation_config") is None:
            data["augmentation_config"] = {}
        if isinstance(augmentation := data["augmentation_config"], dict):
            _set_unset(augmentation, _TAO_STATISTICS)
    stored = read_stored(spec)
    try:
        _facts(stored)
    except ChangeNetError:  # lights and grid that do not fit each other
        return None
    return stored


def completed(experiment: Experiment, inside: Experiment, path: str) -> Experiment:
    """Return the spec with what it leaves out taken from the one inside a checkpoint, and say which keys those are.

    Args:
        experiment: The spec that is given.
        inside: The spec of the checkpoint's training (`spec_inside`).
        path: Of the checkpoint, for messages.

    Raises:
        SpecError: Keys that are written contradict the spec inside, or do not fit what is taken from it: all of them.
    """
    ignored = ARGUMENTS["align_corners"][0]  # by TAO
    stated = {
        key: value for key, value in _facts(inside).items() if key != ignored and written(inside, key) is not None
    }
    if problems := list(compare(experiment, stated, path)):
        raise SpecError(problems)
    left_out = [
        key
        for key in (*stated, *_TAKEN_OVER)
        if written(experiment, key) is None and written(inside, key) is not None and key != f"{DATA}.num_input"
    ]
    whole = reduce(lambda spec, key: filled(spec, key, _value(inside, key)), left_out, experiment)
    misfits = [
        Problem(f"{found.what} (what the spec leaves out is as in {path})", where=found.keys[0], fix=found.fix)
        for found in check(whole)
        if not found.keys[0].startswith("train.") and not set(found.keys).isdisjoint(left_out)
    ]
    if misfits:
        raise SpecError(misfits)
    before, after = _facts(experiment), _facts(whole)
    taken = [f"{key} {after[key]!r}" for key in after if key in left_out and after[key] != before.get(key)]
    if taken:
        logger.info("%s: keys that the spec leaves out are as in its training: %s", path, ", ".join(taken))
    return whole


def _facts(experiment: Experiment) -> dict[str, Any]:
    arguments = network_arguments(experiment)
    if encoder := CATALOGUE.get(arguments["backbone"]):
        for name in ("mean", "std"):
            arguments[name] = arguments[name] or getattr(encoder, name)
    return facts(describe(experiment, arguments)) | {key: plain(_value(experiment, key)) for key in _TAKEN_OVER}


def _value(experiment: Experiment, key: str) -> Any:
    return reduce(getattr, key.split("."), experiment)


def _set_unset(section: dict[str, Any], values: Mapping[str, Any]) -> None:
    section.update({name: value for name, value in values.items() if section.get(name) is None})
