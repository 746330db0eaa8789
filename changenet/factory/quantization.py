"""From a spec to what a quantization needs: pairs to calibrate with and to compare on, and the rules for layers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Literal

from changenet.data.calibration import Pairs, PicturesAlone, batches, drawn, stratified
from changenet.data.lights import Pixels
from changenet.data.pairs import PairSource
from changenet.description import ModelDescription
from changenet.errors import DataError, SpecError
from changenet.factory.data import pair_source
from changenet.quantization.layers import NATIVE, Rule
from changenet.spec import Experiment
from changenet.spec.stored import read_stored

logger = logging.getLogger(__name__)

E4M3, E5M2 = "fp8_e4m3fn", "fp8_e5m2"  # only the first one is made
CALIBRATION_SET = "dataset.classify.quant_calibration_dataset"
CALIBRATION_PAIRS = 128
BATCH = 8  # pairs in memory at a time
PairSplit = Literal["train", "validation", "test", "calibration"]


def calibration_pairs(experiment: Experiment, description: ModelDescription) -> tuple[Pairs, list[int]]:
    """Return the pairs that a static quantization sees, and which of them: a sample of all labels, equally many of each.

    Raises:
        SpecError: Neither the spec nor that of the checkpoint names a calibration set or a training set that is here.
        DataError: The set is wrong.
    """
    named = experiment.dataset.classify.quant_calibration_dataset
    if named.images_dir and not named.csv_path:
        alone = PicturesAlone(
            named.images_dir,
            image_ext=_image_ext(experiment, description),
            layout=description.layout,
            num_golden=description.num_golden,
        )
        logger.warning(
            "%s: each of its %d pictures is its own golden. Real pairs calibrate better: name a csv_path, too.",
            named.images_dir,
            len(alone),
        )
        return alone, stratified([""] * len(alone), CALIBRATION_PAIRS)
    source, missing = open_set(experiment, description, ("calibration", "train"))
    if source is None:
        what = f"there is no calibration set and no training set to take pairs from: {missing}"
        raise SpecError(what, where=CALIBRATION_SET, fix="Name its csv_path and images_dir.")
    labels = source.annotations.labels
    return source, stratified([""] * len(source) if labels is None else labels, CALIBRATION_PAIRS)


def validation_pairs(
    experiment: Experiment, description: ModelDescription, count: int
) -> Iterator[tuple[Pixels, Pixels]]:
    """Yield pairs of the validation set of the spec, else of the one that the network was trained with, batch by batch.

    Nothing is looked for before the first batch is asked for.

    Args:
        experiment: The spec.
        description: Of the network.
        count: Pairs at most (`drawn`).

    Raises:
        SpecError: Neither of them names the set, or the one that the network was trained with is not here.
        DataError: The set that the spec names is wrong.
    """
    pairs, reason = open_set(experiment, description, ("validation",))
    if pairs is None:
        raise SpecError(reason)
    yield from batches(pairs, drawn(len(pairs), count), size=BATCH)


def open_set(
    experiment: Experiment, description: ModelDescription, splits: Sequence[PairSplit]
) -> tuple[PairSource | None, str]:
    """Open the first of these sets that the spec names, else the first that the checkpoint's spec names and that is here.

    Returns:
        The rows, as the network takes them; or None, and why there are none.

    Raises:
        SpecError: The spec names a set without its pictures.
        DataError: The set that the spec names is wrong.
    """
    if split := next((split for split in splits if _names(experiment, split)), None):
        return _source(experiment, split, description), ""
    stored, reasons = read_stored(description.spec), []
    for split in splits:
        if _names(stored, split):
            try:
                source = _source(stored, split, description)
            except (DataError, SpecError) as error:
                reasons.append(str(error))
                continue
            logger.info("%s: the %s set that the checkpoint's spec names.", source.annotations.path, split)
            return source, ""
    keys = " or ".join(_section(split) for split in splits)
    return None, "; ".join(reasons) or f"neither spec nor checkpoint names dataset.classify.{keys}"


def _section(split: PairSplit) -> str:
    return f"{'quant_calibration' if split == 'calibration' else split}_dataset"


def _names(experiment: Experiment, split: PairSplit) -> bool:
    return bool(getattr(experiment.dataset.classify, _section(split)).csv_path)


def _source(experiment: Experiment, split: PairSplit, description: ModelDescription) -> PairSource:
    return pair_source(
        experiment,
        split,
        description.layout,
        image_ext=_image_ext(experiment, description),
        num_golden=description.num_golden,
    )


def _image_ext(experiment: Experiment, description: ModelDescription) -> str:
    data = experiment.dataset.classify
    return data.image_ext if "image_ext" in data.model_fields_set else description.image_ext


def quantization_rules(experiment: Experiment) -> list[Rule]:
    """Return the rules in their order; one that says nothing of weights counts where activations are quantized, too."""
    weights_only = experiment.quantize_mode == "weight_only_ptq"
    rules = []
    for rule in experiment.quantize.layers:
        tensor = rule.weights or (None if weights_only else rule.activations)
        if tensor is not None:
            if not weights_only and tensor.dtype != NATIVE and None in (rule.weights, rule.activations):
                what = "the rule for %r names weights or activations alone; %s quantizes both to %s."
                logger.warning("quantize.layers: " + what, rule.module_name, experiment.quantize.backend, tensor.dtype)
            rules.append(Rule(rule.module_name, E4M3 if tensor.dtype == E5M2 else tensor.dtype))
    return rules
