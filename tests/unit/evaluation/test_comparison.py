"""Two engines on the same pairs, and what one of them costs."""

import numpy as np
import pytest

from changenet.engines import engine_of
from changenet.engines.torch import TorchEngine
from changenet.errors import EngineError
from changenet.evaluation.candidate import Candidate
from changenet.evaluation.comparison import FIGURES, Comparison, Judged, compare_engines
from changenet.evaluation.cost import BATCHES, measure
from changenet.export.graphs import assemble
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


def test_cost_is_measured_in_another_process(checkpoint, parts) -> None:
    graphs = {name: graph.SerializeToString() for name, graph in assemble(parts).items()}
    by_graphs = Candidate.in_onnxruntime(graphs, "fp32", checkpoint.description)
    costs = [measure(each) for each in (Candidate.in_pytorch(checkpoint, "fp32"), by_graphs)]
    for cost in costs:
        assert set(cost.latency_ms) == {str(batch) for batch in BATCHES}
        assert min(filter(None, cost.latency_ms.values())) > 0
        assert cost.pairs_per_second
        assert cost.memory_mb is None or cost.memory_mb > 50
    in_pytorch, in_onnxruntime = (cost.memory_mb for cost in costs)
    if in_pytorch and in_onnxruntime:  # which needs no torch
        assert in_onnxruntime < 0.7 * in_pytorch


def test_a_candidate_holds_what_its_engine_runs(checkpoint, parts, pairs) -> None:
    graphs = {name: graph.SerializeToString() for name, graph in assemble(parts).items()}
    candidate = Candidate.in_onnxruntime(graphs, "fp32", checkpoint.description)
    assert candidate.size == len(graphs["pair.onnx"])
    assert set(candidate.model) == {"encoder.onnx", "golden.onnx", "comparator.onnx"}
    again = Candidate.in_pytorch(checkpoint, "fp32")
    assert again.size == sum(tensor.nbytes for tensor in checkpoint.state.values())
    np.testing.assert_allclose(candidate.open().score(*pairs), again.open().score(*pairs), atol=1e-4)
    assert Candidate.in_pytorch(checkpoint, "bf16").open().precision == "bf16"


def test_a_process_that_ends_early_is_one_line(checkpoint) -> None:
    graphs = {"encoder.onnx": b"none", "pair.onnx": b"none"}
    with pytest.raises(EngineError, match="the process that measures ended early"):
        measure(Candidate.in_onnxruntime(graphs, "fp32", checkpoint.description))
