"""A candidate in the shadow of the model that answers: it sees a share of the requests, and nobody sees its verdicts."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pydantic import BaseModel

from changenet.inspection import Verdict
from serve.drift import population_stability
from serve.form import PairForm
from serve.inspector import ServedModel
from serve.metrics import Metrics
from serve.problems import HttpError
from serve.schemas import ShadowReport

BINS = 20
PENDING = 16  # more are not looked at: the requests that are answered come first

logger = logging.getLogger(__name__)


class Tally(BaseModel):
    """What a replica has seen of a candidate; tallies of several replicas add up."""

    pairs: int = 0
    agreements: int = 0
    candidate_fails: int = 0
    active_fails: int = 0
    errors: int = 0
    skipped: int = 0
    difference: float = 0.0
    largest: float = 0.0
    candidate_scores: list[int] = [0] * BINS
    active_scores: list[int] = [0] * BINS

    def add(self, active: Verdict, candidate: Verdict, edges: Sequence[float]) -> None:
        """Count one pair; `edges` (BINS - 1) divide the scores."""
        difference = abs(active.score - candidate.score)
        self.pairs += 1
        self.agreements += active.prediction == candidate.prediction
        self.candidate_fails += active.passed and not candidate.passed
        self.active_fails += candidate.passed and not active.passed
        self.difference += difference
        self.largest = max(self.largest, difference)
        for counts, verdict in ((self.active_scores, active), (self.candidate_scores, candidate)):
            counts[int(np.searchsorted(edges, verdict.score))] += 1

    def plus(self, other: Tally) -> Tally:
        """Return both together."""
        both = {name: getattr(self, name) + getattr(other, name) for name in ("pairs", "agreements", "candidate_fails")}
        both |= {name: getattr(self, name) + getattr(other, name) for name in ("active_fails", "errors", "skipped")}
        return Tally(
            **both,
            difference=self.difference + other.difference,
            largest=max(self.largest, other.largest),
            candidate_scores=_sums(self.candidate_scores, other.candidate_scores),
            active_scores=_sums(self.active_scores, other.active_scores),
        )

    def report(self, *, model: str, active: str, candidate: str, traffic: float) -> ShadowReport:
        """Return what clients see of it; nothing is said about no pairs."""
        return ShadowReport(
            model=model,
            active=active,
            candidate=candidate,
            traffic=traffic,
            pairs=self.pairs,
            agreement=self.agreements / self.pairs if self.pairs else None,
            only_candidate_fails=self.candidate_fails,
            only_active_fails=self.active_fails,
            mean_difference=self.difference / self.pairs if self.pairs else None,
            largest_difference=self.largest if self.pairs else None,
            drift=population_stability(self.active_scores, self.candidate_scores) if self.pairs else None,
            errors=self.errors,
            skipped=self.skipped,
        )


class Shadow:
    """A loaded candidate.

    Args:
        candidate: Loaded like any model.
        traffic: Share of requests it sees, 0-1.
    """

    def __init__(self, candidate: ServedModel, traffic: float) -> None:
        self.candidate = candidate
        # What it decides is no decision of the service.
        candidate.shared = replace(candidate.shared, metrics=Metrics())
        self.traffic = traffic
        self.tally = Tally()
        self.unsaved = False
        edges = candidate.inspector.description.validation_scores.get("edges") or (0.0, 1.0)
        self._edges = np.linspace(edges[0], edges[-1], BINS + 1)[1:-1].tolist()
        self._pending: set[asyncio.Task[None]] = set()

    def offer(self, form: PairForm, verdict: Verdict) -> None:
        """Let the candidate judge a pair that was answered, sometime, if the pair falls into its share.

        A threshold that a client chose says nothing about either model's own: such pairs are left out.
        """
        if form.threshold is not None or random.random() >= self.traffic:  # noqa: S311 - a sample, not a secret
            return
        self.unsaved = True
        if len(self._pending) >= PENDING:
            self.tally.skipped += 1
            return
        task = asyncio.create_task(self._judge(form, verdict))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _judge(self, form: PairForm, verdict: Verdict) -> None:
        try:
            inspected = await self.candidate.inspect(form)
        except HttpError:  # the candidate compares other lights, or more goldens
            self.tally.errors += 1
        except Exception:
            self.tally.errors += 1
            logger.exception("The shadow of %r failed", self.candidate.name)
        else:
            self.tally.add(verdict, inspected.verdict, self._edges)
        self.unsaved = True


def _sums(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]
