"""The threshold that `evaluate` and `inference` decide by."""

from __future__ import annotations

import logging
from collections.abc import Callable

from changenet.description import ModelDescription, Threshold
from changenet.spec import Experiment
from changenet.spec.keys import CLASSIFY

logger = logging.getLogger(__name__)


def choose_threshold(
    experiment: Experiment, description: ModelDescription, *, fit: Callable[[float, float], Threshold]
) -> Threshold:
    """Return the threshold to decide by: what the spec writes beats what the network carries.

    A written `model.classify.eval_margin` is used as it is. A written recall target that is not the one the network's
    threshold was fitted for is fitted anew, on validation, never on the set that is judged.

    Args:
        experiment: The spec.
        description: The network's own threshold.
        fit: Fits a threshold on validation for (target, margin to fall back to).
    """
    stored, choice = description.threshold, experiment.evaluate.threshold
    if not experiment.threshold_written:
        if stored.policy == "margin" and not description.metrics:
            advice = f"Write {CLASSIFY}.eval_margin, or evaluate.threshold.policy: recall to fit one on validation."
            logger.warning("The network has no fitted threshold: %g decides. %s", stored.value, advice)
        return stored
    margin = _margin(experiment, description)
    if experiment.threshold_policy == "margin":
        if experiment.model.classify.eval_margin is None and stored.policy == "margin":
            return stored
        return Threshold(margin, "margin")
    target = choice.target if choice.target is not None else stored.target or 1.0
    if stored.policy == "recall" and stored.target == target:
        return stored
    return fit(target, margin)


def _margin(experiment: Experiment, description: ModelDescription) -> float:
    """Return the written margin, or the default of the network's difference module."""
    written = experiment.model.classify.eval_margin
    if description.difference_module == "euclidean":
        trained = description.spec.get("model", {}).get("classify", {})
        return float(trained.get("train_margin_euclid", 2.0)) / 2 if written is None else written
    if written is not None and written > 1:
        logger.warning("%s.eval_margin is %g, but scores are probabilities: 0.5 is used.", CLASSIFY, written)
        return 0.5
    return 0.5 if written is None else written
