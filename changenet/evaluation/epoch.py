"""What an epoch of training or a pass of validation says about the network: figures, the threshold, the score histogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from changenet.description import BINARY_CLASSES, Threshold
from changenet.errors import SpecError
from changenet.evaluation.metrics import decision_metrics, predict, score_histogram
from changenet.evaluation.thresholds import fit_threshold
from changenet.model.network import ChangeNet
from changenet.training.loop import EpochResult
from changenet.training.losses import Loss


@dataclass(frozen=True)
class Judgement:
    """A pass of validation, judged.

    Args:
        threshold: Fitted on its scores, as the spec's policy says.
        metrics: At that threshold, as `metrics.json` has them.
        histogram: Of the scores of good pairs and defects.
        figures: The columns of `metrics.csv`.
    """

    threshold: Threshold
    metrics: dict[str, Any]
    histogram: dict[str, Any]
    figures: dict[str, float | None]


def judge(
    result: EpochResult,
    *,
    network: ChangeNet,
    loss: Loss,
    labels: Sequence[str],
    classes: Sequence[str],
    policy: Literal["margin", "recall"],
    target: float,
    margin: float,
) -> Judgement:
    """Judge all rows of the validation set.

    Args:
        result: Of all ranks, in the rows' order.
        network: Turns its outputs into scores.
        loss: Gives `val_loss`, over all rows at once.
        labels: Of the rows, as the CSV file has them.
        classes: Of the model.
        policy: How the threshold is fitted, as `fit_threshold` takes it.
        target: Likewise.
        margin: Likewise.
    """
    scores, is_defect = network.score(result.output).numpy(), result.target.numpy() > 0
    threshold = fit_threshold(scores, is_defect, policy=policy, target=target, margin=margin)
    predictions = None
    if classes != BINARY_CLASSES:
        chances = result.output.softmax(dim=1).numpy()
        predictions = predict(scores, threshold, classes=classes, probabilities=chances).tolist()
    metrics = decision_metrics(scores, is_defect, threshold, labels=labels, predictions=predictions, classes=classes)
    at_full_recall = metrics["false_call_rate_at_full_recall"]
    figures = {
        "val_loss": float(loss(result.output, result.target)),
        **tao_figures("val", result, network=network, threshold=threshold),
        # TAO's convention for a set that has only one kind: the worst value.
        "val_far": 100.0 if at_full_recall is None else 100 * at_full_recall,
        "val_auroc": metrics["auroc"],
        "val_average_precision": metrics["average_precision"],
        "threshold": threshold.value,
    }
    return Judgement(threshold, metrics, score_histogram(scores, is_defect), figures)


def tao_figures(
    prefix: str, result: EpochResult, *, network: ChangeNet, threshold: Threshold
) -> dict[str, float | None]:
    """Return `PREFIX_acc`, `PREFIX_fpr` and `PREFIX_fnr` in percent, by the formulas of TAO 7.3."""
    scores = network.score(result.output).numpy()
    tao = decision_metrics(scores, result.target.numpy() > 0, threshold)["tao"]
    return {f"{prefix}_{name}": tao[f"test_{name}"] for name in ("acc", "fpr", "fnr")}


def check_finite(result: EpochResult, epoch: int) -> None:
    """Make sure that the network still gives numbers.

    Raises:
        SpecError: It does not.
    """
    if not result.output.isfinite().all():
        raise SpecError(
            f"training diverged in epoch {epoch}: the network's outputs are no numbers any more",
            where="train.optim.lr",
            fix="Lower it, set train.clip_grad_norm, or use precision 32-true or bf16-mixed.",
        )
