"""Two engines on the same pairs, and what one of them costs."""

import numpy as np
import pytest

from changenet.engines import engine_of
from changenet.engines.torch import TorchEngine
from changenet.evaluation.comparison import FIGURES, Comparison, Judged, compare_engines
from changenet.evaluation.cost import BATCHES, measure
from changenet.training.checkpoint import build_network


def test_an_engine_agrees_with_itself_and_less_with_another(checkpoint, pairs) -> None:
    reference, other = engine_of(checkpoint), build_network(checkpoint)
    batches = [(pairs[0][:3], pairs[1][:3]), (pairs[0][3:], pairs[1][3:])]
    same = compare_engines(reference, reference, batches, checkpoint.description)
    assert (same.agreement, same.max_difference, same.max_error) == (1.0, 0.0, 0.0)
    other.head.layers[-1].bias.data += other.head.layers[-1].bias.new_tensor([100.0, 0.0])
    found = compare_engines(reference, TorchEngine(other), batches, checkpoint.description)
    assert set(found.candidate.predictions) == {"PASS"}
    assert found.agreement == np.mean(found.reference.predictions == "PASS")
    assert found.max_difference == pytest.approx(found.reference.scores.max(), abs=1e-5)


def test_scores_that_are_no_numbers_have_no_figures(checkpoint) -> None:
    good = Judged(np.array([0.1, 0.9], np.float32), np.array(["PASS", "FAIL"]))
    broken = Judged(np.array([0.1, np.nan], np.float32), np.array(["PASS", "FAIL"]))
    truth = np.array([False, True])
    assert good.figures(checkpoint.description, truth)["auroc"] == 1.0
    assert broken.figures(checkpoint.description, truth) == dict.fromkeys(FIGURES)
    assert good.figures(checkpoint.description, None) == dict.fromkeys(FIGURES)
    assert Comparison(good, broken).max_error == float("inf")


def test_cost_is_measured_in_another_process(checkpoint) -> None:
    cost = measure(checkpoint)
    assert set(cost.latency_ms) == {str(batch) for batch in BATCHES}
    assert min(cost.latency_ms.values()) > 0
    assert cost.pairs_per_second > 0
    assert cost.memory_mb is None or cost.memory_mb > 50
