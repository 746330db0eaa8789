from __future__ import annotations

from typing import Any

import pytest
import torch

from changenet.errors import SpecError
from changenet.evaluation.epoch import Judgement, check_finite, judge
from changenet.model.network import ChangeNet
from changenet.training.loop import EpochResult
from changenet.training.losses import make_loss


def judged(distances: list[float], targets: list[int], **changes: Any) -> Judgement:
    network = ChangeNet(backbone="timm/test_efficientnet", difference_module="euclidean", embedding_vectors=2)
    result = EpochResult(torch.arange(len(targets)), torch.tensor(distances), torch.tensor(targets))
    settings = {"classes": ("PASS", "defect"), "policy": "recall", "target": 1.0, "margin": 0.5, **changes}
    labels = ["missing" if target else "PASS" for target in targets]
    return judge(result, network=network, loss=make_loss("contrastive"), labels=labels, **settings)


def test_the_threshold_is_the_one_that_the_policy_asks_for_and_the_figures_are_at_it() -> None:
    by_recall = judged([0.1, 0.3, 0.2, 0.9], [0, 0, 1, 1])
    assert by_recall.threshold.value < 0.2
    assert (by_recall.metrics["recall"], by_recall.figures["val_far"]) == (1.0, 50.0)
    assert by_recall.figures["val_fpr"] == 50.0
    by_margin = judged([0.1, 0.3, 0.2, 0.9], [0, 0, 1, 1], policy="margin")
    assert (by_margin.threshold.value, by_margin.metrics["recall"]) == (0.5, 0.5)
    assert by_margin.figures["val_fnr"] == 50.0


def test_a_set_without_defects_has_the_worst_false_call_rate() -> None:
    judgement = judged([0.1, 0.3], [0, 0])
    assert (judgement.figures["val_far"], judgement.figures["val_auroc"]) == (100.0, None)


def test_outputs_that_are_no_numbers_end_the_run() -> None:
    result = EpochResult(torch.arange(2), torch.tensor([0.1, torch.nan]), torch.tensor([0, 1]))
    with pytest.raises(SpecError, match=r"train\.optim\.lr: training diverged in epoch 3"):
        check_finite(result, 3)
