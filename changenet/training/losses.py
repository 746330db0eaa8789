"""The two losses: cross entropy for a classifier, contrastive for a distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(distance: Tensor, defect: Tensor, *, margin: float) -> Tensor:
    """Return `(1 - y) d² + y max(margin - d, 0)²` of each pair, (B,).

    Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping" (CVPR 2006), without the
    factor ½. TAO (5.1 to 7.3) broadcasts a (B,) distance against a (B, 1) label, which pairs every distance with every
    label and cancels the supervision; here each distance meets its own label.

    Args:
        distance: (B,), >= 0.
        defect: (B,), 0 = PASS, 1 = defect.
        margin: Distance beyond which a defect costs nothing.

    >>> d, y = torch.tensor([0.1, 1.5, 0.3, 2.5]), torch.tensor([0, 1, 0, 1])
    >>> [round(value, 2) for value in contrastive_loss(d, y, margin=2.0).tolist()]
    [0.01, 0.25, 0.09, 0.0]
    """
    if distance.shape != defect.shape:
        raise ValueError(f"distance {tuple(distance.shape)} and label {tuple(defect.shape)} must have one shape")
    y = defect.to(distance.dtype)
    return (1 - y) * distance.square() + y * (margin - distance).clamp_min(0).square()


@dataclass(frozen=True)
class Loss:
    """The loss of some rows in one number: their mean, in which a row counts as much as its class weighs.

    Args:
        of_rows: `of_rows(output, target)`: (B,), the loss of each row.
        class_weights: (C,), the weight of each class; None weighs all alike.
    """

    of_rows: Callable[[Tensor, Tensor], Tensor]
    class_weights: Tensor | None = None

    def sums(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the rows' weighted losses and that of their weights, scalars.

        Over several batches or ranks these add up; means of rows that weigh differently do not.
        """
        losses = self.of_rows(output, target)
        weights = torch.ones_like(losses) if self.class_weights is None else self.class_weights.to(losses)[target]
        return (weights * losses).sum(), weights.sum()

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean, a scalar; no number (nan) where nothing has any weight."""
        total, weight = self.sums(output, target)
        return total / weight


def make_loss(name: str, *, margin: float = 2.0, class_weights: Sequence[float] | None = None) -> Loss:
    """Return the loss of a network's output.

    Args:
        name: `ce`: output (B, C) logits, target (B,) class; `contrastive`: output (B,) distance, target (B,) 0 or 1.
        margin: The contrastive margin (`model.classify.train_margin_euclid`).
        class_weights: One weight a class (`train.classify.cls_weight`), for `ce`; None weighs all alike.
    """
    if name == "contrastive":
        return Loss(partial(contrastive_loss, margin=margin))
    weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
    return Loss(partial(F.cross_entropy, reduction="none"), weights)
