"""From a spec to what a quantization needs: pairs to calibrate with and to compare on, and the rules for layers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Literal

from changenet.data.calibration import Pairs, PicturesAlone, stratified
from changenet.data.pairs import PairSource
from changenet.description import ModelDescription
from changenet.errors import DataError, SpecError
from changenet.factory.data import pair_source
from changenet.quantization.layers import Rule
from changenet.spec import Experiment
from changenet.spec.stored import read_stored

logger = logging.getLogger(__name__)

E4M3, E5M2 = "fp8_e4m3fn", "fp8_e5m2"  # only the first one is made
CALIBRATION_SET = "dataset.classify.quant_calibration_dataset"
CALIBRATION_PAIRS = 128


def calibration_pairs(experiment: Experiment, description: ModelDescription) -> tuple[Pairs, list[int]]:
    """Return the pairs that a static quantization sees, and which of them: a sample of all labels.

    Raises:
        SpecError: The spec names neither a calibration set nor a training set.
        DataError: The set is wrong.
    """
    data = experiment.dataset.classify
    named = data.quant_calibration_dataset
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
    if not named.csv_path and not data.train_dataset.csv_path:
        what = "there is no calibration set and no training set to take pairs from"
        raise SpecError(what, where=CALIBRATION_SET, fix="Name its csv_path and images_dir.")
    return sampled_pairs(experiment, "calibration" if named.csv_path else "train", description, CALIBRATION_PAIRS)


def validation_pairs(
    experiment: Experiment, description: ModelDescription, count: int
) -> tuple[Iterator[tuple[Any, Any]] | None, str]:
    """Return pairs, one by one, of the validation set of the spec, else of the one that the network was trained with.

    Returns:
        The pairs, read already; or None, and why there are none, which is also logged.
    """
    if not experiment.dataset.classify.validation_dataset.csv_path:
        experiment = read_stored(description.spec)
    if not experiment.dataset.classify.validation_dataset.csv_path:
        reason = "neither spec nor checkpoint names dataset.classify.validation_dataset"
    else:
        try:
            pairs, rows = sampled_pairs(experiment, "validation", description, count)
            read = [pairs.read(row) for row in rows]
            return ((test[None], golden[None]) for test, golden in read), ""
        except (DataError, SpecError) as error:
            reason = str(error)
    logger.warning("No decisions on real pairs were compared: %s", reason)
    return None, reason


def sampled_pairs(
    experiment: Experiment,
    split: Literal["train", "validation", "test", "calibration"],
    description: ModelDescription,
    count: int,
) -> tuple[PairSource, list[int]]:
    """Return the rows of a split as a network takes them, and at most `count` of them, of all labels.

    Raises:
        SpecError: The spec does not name the split.
        DataError: The set is wrong.
    """
    source = pair_source(
        experiment,
        split,
        description.layout,
        image_ext=_image_ext(experiment, description),
        num_golden=description.num_golden,
    )
    labels = source.annotations.labels
    return source, stratified([""] * len(source) if labels is None else labels, count)


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
            rules.append(Rule(rule.module_name, E4M3 if tensor.dtype == E5M2 else tensor.dtype))
    return rules
