"""A quantized network beside the one it was made from: what engines and precisions decide, and what they cost."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from changenet.data.calibration import Pairs, batches
from changenet.data.pairs import PairSource
from changenet.engines import engine_of
from changenet.evaluation.comparison import Comparison, judge_engines
from changenet.evaluation.cost import measure
from changenet.factory.quantization import sampled_pairs
from changenet.quantization.file import QuantizedCheckpoint
from changenet.spec import Experiment
from changenet.training.checkpoint import Checkpoint
from ray_jobs.console import progress

logger = logging.getLogger(__name__)

Graphs = dict[str, bytes]
Figures = dict[str, Any]
BATCH = 8
COMPARED = 1000  # pairs at most
PAIR_GRAPH = "pair.onnx"
FP32, BF16, QUANTIZED = range(3)  # what is judged, in this order


@dataclass(frozen=True)
class Candidates:
    """What is compared.

    Args:
        checkpoint: Of floats; judged in fp32 and in bf16, in PyTorch.
        quantized: What was made of it.
        graphs: Its graphs, by file name; none where PyTorch runs it.
        float_graphs: The same before they were quantized: they tell what the runtime gives from what the integers give.
    """

    checkpoint: Checkpoint
    quantized: QuantizedCheckpoint
    graphs: Graphs
    float_graphs: Graphs

    def decide(self, experiment: Experiment) -> tuple[QuantizedCheckpoint, Figures, list[Figures]]:
        """Score the same pairs with all of them.

        Returns:
            The quantized checkpoint, which now says how well it agrees; that part of `comparison.json`; and what is judged of
            each: nothing where the spec names no set.
        """
        found = _pairs_to_compare(experiment, self.checkpoint)
        if found is None:
            return self.quantized, {}, [{}, {}, {}]
        name, pairs, rows = found
        description = self.checkpoint.description
        engines = [
            engine_of(self.checkpoint),
            engine_of(self.checkpoint, precision="bf16"),
            engine_of(replace(self.quantized, graphs=self.graphs)),
        ]
        judged = judge_engines(engines, shown("Comparing", pairs, rows), description)
        comparisons = [Comparison(judged[FP32], each) for each in judged]
        ours = comparisons[QUANTIZED]
        quantized = self.quantized.compared(ours.agreement, ours.max_error)
        is_defect = None if pairs.annotations.labels is None else pairs.annotations.is_defect[rows]
        figures = {
            "set": name,
            "pairs": len(rows),
            "threshold": description.threshold.value,
            "agreement": ours.agreement,
            "min_agreement": quantized.min_agreement,
            "agrees": quantized.agrees,
            "max_score_difference": _finite(ours.max_difference),
        }
        return (
            quantized,
            figures,
            [
                {
                    **each.candidate.figures(description, is_defect),
                    "agreement": each.agreement,
                    "max_score_difference": _finite(each.max_difference),
                }
                for each in comparisons
            ],
        )

    def measured(self, judged: Sequence[Figures]) -> list[Figures]:
        """Return a row an engine and precision: what it decides (`decide`), and what it costs."""
        runtime = "onnxruntime" if self.graphs else "torch"
        quantized = replace(self.quantized, graphs=self.graphs)
        size = _weights(self.checkpoint)
        rows: list[tuple[str, str, Checkpoint | QuantizedCheckpoint, int, Figures]] = [
            ("torch", "fp32", self.checkpoint, size, judged[FP32]),
            ("torch", "bf16", self.checkpoint, size, judged[BF16]),
        ]
        if self.float_graphs:  # an export's gate holds their scores to 1e-4
            same = {**judged[FP32], "agreement": None, "max_score_difference": None}
            floats = replace(self.quantized, graphs=self.float_graphs, layers={"": "fp32"})
            rows.append((runtime, "fp32", floats, len(self.float_graphs[PAIR_GRAPH]), same))
        size = len(self.graphs[PAIR_GRAPH]) if self.graphs else _weights(quantized)
        rows.append((runtime, quantized.precision, quantized, size, judged[QUANTIZED]))
        found = []
        for engine, precision, model, size, figures in rows:
            logger.info("Measuring %s %s.", engine, precision)
            cost = measure(model, precision="bf16" if precision == "bf16" else "fp32")
            known = {"engine": engine, "precision": precision, "size_mb": round(size / 1e6, 3)}
            found.append({**known, **cost.to_dict(), **figures})
        return found


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _weights(checkpoint: Checkpoint | QuantizedCheckpoint) -> int:
    return sum(tensor.nbytes for tensor in checkpoint.state.values())


def _pairs_to_compare(experiment: Experiment, checkpoint: Checkpoint) -> tuple[str, PairSource, list[int]] | None:
    """Return the first of validation, test and training set that the spec names, and rows of it."""
    data = experiment.dataset.classify
    for split in ("validation", "test", "train"):
        if getattr(data, f"{split}_dataset").csv_path:
            pairs, rows = sampled_pairs(experiment, split, checkpoint.description, COMPARED)
            return pairs.annotations.path, pairs, rows
    return None


def shown(title: str, pairs: Pairs, rows: Sequence[int]) -> Iterator[tuple[Any, Any]]:
    """Yield tests and goldens, batch by batch, while a bar tells how far it is."""
    with progress() as bar:
        task = bar.add_task(title, total=len(rows))
        for test, golden in batches(pairs, rows, size=BATCH):
            yield test, golden
            bar.advance(task, len(test))
