"""`comparison.json`: what engines and precisions of one network decide on the same pairs, and what each of them costs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from changenet import storage
from changenet.data.calibration import Pairs, batches, drawn
from changenet.data.pairs import PairSource
from changenet.description import ModelDescription
from changenet.errors import EngineError
from changenet.evaluation.candidate import Candidate
from changenet.evaluation.comparison import Comparison, judge_engines
from changenet.evaluation.cost import UNKNOWN, Cost, measure
from changenet.factory.quantization import BATCH, open_set
from changenet.spec import Experiment
from ray_jobs.console import progress

logger = logging.getLogger(__name__)

COMPARISON = "comparison.json"
COMPARED = 1000  # pairs at most
Figures = dict[str, Any]


def short(backend: str) -> str:
    """Return a backend as file names have it: `modelopt` for `modelopt.pytorch`."""
    return backend.partition(".")[0]


def comparison_beside(backend: str) -> str:
    """Return the name of a backend's comparison in a folder where another one was at work since."""
    return f"comparison_{short(backend)}.json"


def comparisons_in(folder: str) -> list[str]:
    """Return the paths of all comparisons in a folder, that of the backend which was at work last first."""
    return [storage.join(folder, name) for name in storage.names_inside(folder) if fnmatch(name, "comparison*.json")]


@dataclass(frozen=True)
class Sample:
    """Rows of a set, drawn without regard to their labels: shares of them are shares of the set."""

    source: PairSource
    rows: list[int]

    @property
    def is_defect(self) -> NDArray[np.bool_] | None:
        """Truth of the rows (N,); None where the set has no labels."""
        annotations = self.source.annotations
        return None if annotations.labels is None else annotations.is_defect[self.rows]


def draw_sample(experiment: Experiment, description: ModelDescription) -> Sample | None:
    """Open the set whose decisions are compared; None, with a warning, where there is none (raises as `open_set`)."""
    source, missing = open_set(experiment, description, ("validation", "test", "train"))
    if source is None:
        logger.warning("No decisions are compared: %s", missing)
        return None
    return Sample(source, drawn(len(source), COMPARED))


def judge(candidates: Sequence[Candidate], sample: Sample) -> list[Comparison]:
    """Score the same pairs with all candidates and hold each against the first.

    Raises:
        DataError: A picture cannot be read.
        EngineError: A candidate does not run here.
    """
    engines = [each.open() for each in candidates]
    pairs = shown("Comparing", sample.source, sample.rows)
    judged = judge_engines(engines, pairs, candidates[0].description)
    return [Comparison(judged[0], each) for each in judged]


def comparison_figures(
    candidates: Sequence[Candidate], comparisons: Sequence[Comparison], sample: Sample | None
) -> Figures:
    """Return what `comparison.json` says of candidates.

    Args:
        candidates: They are measured now, a row each; the first is the network of floats, the last what was made of it.
        comparisons: What `judge` found; empty without a sample.
        sample: On which.
    """
    decided: list[Figures] = [{} for _ in candidates]
    figures: Figures = {}
    if sample is not None:
        description = candidates[0].description
        decided = [
            {**each.candidate.figures(description, sample.is_defect), **_agreement(each)} for each in comparisons
        ]
        figures = {
            "set": sample.source.annotations.path,
            "pairs": len(sample.rows),
            "threshold": description.threshold.value,
            **_agreement(comparisons[-1]),
        }
    engines = [
        {
            "engine": candidate.engine,
            "precision": candidate.precision,
            "device": candidate.device,
            "size_mb": round(candidate.size / 1e6, 3),
            **_cost(candidate).to_dict(),
            **said,
        }
        for candidate, said in zip(candidates, decided, strict=True)
    ]
    return {**figures, "engines": engines}


def _agreement(comparison: Comparison) -> Figures:
    largest = comparison.max_difference
    return {"agreement": comparison.agreement, "max_score_difference": largest if np.isfinite(largest) else None}


def _cost(candidate: Candidate) -> Cost:
    logger.info("Measuring %s %s.", candidate.engine, candidate.precision)
    try:
        return measure(candidate)
    except EngineError as error:
        logger.warning("%s %s has no figures of time and memory: %s", candidate.engine, candidate.precision, error)
        return UNKNOWN


def shown(title: str, pairs: Pairs, rows: Sequence[int]) -> Iterator[tuple[Any, Any]]:
    """Yield tests and goldens, batch by batch, while a bar tells how far it is."""
    with progress() as bar:
        task = bar.add_task(title, total=len(rows))
        for test, golden in batches(pairs, rows, size=BATCH):
            yield test, golden
            bar.advance(task, len(test))
