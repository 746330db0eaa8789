"""The two losses: cross entropy for a classifier, contrastive for a distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]


def contrastive_loss(distance: Tensor, defect: Tensor, *, margin: float) -> Tensor:
    """Mean of `(1 - y) d² + y max(margin - d, 0)²` over the pairs of a batch.

    Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping" (CVPR 2006), without the
    factor ½. TAO (5.1 to 7.3) broadcasts a (B,) distance against a (B, 1) label, which pairs every distance with every
    label and cancels the supervision; here each distance meets its own label.

    Args:
        distance: (B,), >= 0.
        defect: (B,), 0 = PASS, 1 = defect.
        margin: Distance beyond which a defect costs nothing.

    >>> d, y = torch.tensor([0.1, 1.5, 0.3, 2.5]), torch.tensor([0, 1, 0, 1])
    >>> round(float(contrastive_loss(d, y, margin=2.0)), 4)
    0.0875
    """
    if distance.shape != defect.shape:
        raise ValueError(f"distance {tuple(distance.shape)} and label {tuple(defect.shape)} must have one shape")
    y = defect.to(distance.dtype)
    return ((1 - y) * distance.square() + y * (margin - distance).clamp_min(0).square()).mean()


def make_loss(name: str, *, margin: float = 2.0, class_weights: Sequence[float] | None = None) -> Loss:
    """Return `loss(output, target)` of a batch.

    Args:
        name: `ce`: output (B, C) logits, target (B,) class; `contrastive`: output (B,) distance, target (B,) 0 or 1.
        margin: The contrastive margin (`model.classify.train_margin_euclid`).
        class_weights: One weight a class (`train.classify.cls_weight`), for `ce`; None weighs all alike.
    """
    if name == "contrastive":
        return lambda distance, target: contrastive_loss(distance, target, margin=margin)
    weight = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
    return lambda logits, target: F.cross_entropy(
        logits, target, weight=None if weight is None else weight.to(logits.device)
    )
