"""A candidate in the shadow of the model that answers: it sees a share of the requests, and nobody sees its verdicts."""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from changenet.inspection import Verdict
from serve.drift import BINS, borders, has_scores, population_stability
from serve.form import PairForm
from serve.inspector import ServedModel
from serve.model_state import Candidate
from serve.problems import HttpError
from serve.schemas import ShadowReport

WAITING_BYTES = 64 << 20  # of pictures; what is more is not looked at: the requests that are answered come first
AT_ONCE = 4

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

    def add(self, active: Verdict, candidate: Verdict, borders: NDArray[np.float64]) -> None:
        """Count one pair; `borders` (BINS - 1 at most) part the scores."""
        difference = abs(active.score - candidate.score)
        self.pairs += 1
        self.agreements += active.prediction == candidate.prediction
        self.candidate_fails += active.passed and not candidate.passed
        self.active_fails += candidate.passed and not active.passed
        self.difference += difference
        self.largest = max(self.largest, difference)
        for counts, verdict in ((self.active_scores, active), (self.candidate_scores, candidate)):
            counts[int(np.searchsorted(borders, verdict.score, side="right"))] += 1

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
    """A loaded candidate beside the model that answers.

    Args:
        candidate: Loaded like any model.
        wanted: What it is, and the share of requests it sees.
        beside: The model that answers.
    """

    def __init__(self, candidate: ServedModel, wanted: Candidate, *, beside: ServedModel) -> None:
        self.candidate = candidate
        # What it decides is no decision of the service; what it costs is.
        candidate.shared = replace(candidate.shared, metrics=candidate.shared.metrics.of_shadow())
        self.wanted = wanted
        self.beside = beside
        self.tally = Tally()
        self.unsaved = False
        scores = candidate.inspector.description.validation_scores
        self._borders = borders(scores) if has_scores(scores) else np.linspace(0, 1, BINS + 1)[1:-1]
        self._waiting: list[_Waiting] = []  # a heap
        self._bytes = 0
        self._judges: set[asyncio.Task[None]] = set()

    @property
    def compared(self) -> str:
        """Names what is counted: both models, and since when."""
        return ".".join(filter(None, (self.beside.identity, self.candidate.identity, self.wanted.run)))

    def offer(self, form: PairForm, verdict: Verdict) -> None:
        """Let the candidate judge a pair that was answered, sometime, if the pair falls into its share.

        A threshold that a client chose says nothing about either model's own: such pairs are left out. Of more pairs than
        may wait, those that drew the lowest lots go: each row of a board is as likely to be judged as any other.
        """
        if form.threshold is not None or random.random() >= self.wanted.traffic:  # noqa: S311 - a sample, not a secret
            return
        self.unsaved = True
        waiting = _Waiting(random.random(), form, verdict)  # noqa: S311 - likewise
        heapq.heappush(self._waiting, waiting)
        self._bytes += waiting.size
        while self._bytes > WAITING_BYTES:
            self._bytes -= heapq.heappop(self._waiting).size
            self.tally.skipped += 1
        if len(self._judges) < AT_ONCE:
            task = asyncio.create_task(self._judge_all())
            self._judges.add(task)
            task.add_done_callback(self._judges.discard)

    def stop(self) -> None:
        """Judge nothing more."""
        self._waiting.clear()
        self._bytes = 0

    async def _judge_all(self) -> None:
        while self._waiting:
            waiting = self._waiting.pop()  # without its last entry a heap is still one
            self._bytes -= waiting.size
            await self._judge(waiting.form, waiting.verdict)

    async def _judge(self, form: PairForm, verdict: Verdict) -> None:
        try:
            inspected = await self.candidate.inspect(form)
        except HttpError:  # the candidate compares other lights or more goldens, or has no score
            self.tally.errors += 1
        except Exception:
            self.tally.errors += 1
            logger.exception("The shadow of %r failed", self.candidate.name)
        else:
            self.tally.add(verdict, inspected.verdict, self._borders)
            self._record(form, verdict, inspected.verdict)
        self.unsaved = True

    def _record(self, form: PairForm, active: Verdict, candidate: Verdict) -> None:
        """Write both scores to the log, where whoever wants to know about one pair finds it."""
        scores = {"score": active.score, "prediction": active.prediction, "version": self.beside.version}
        shadow = {"score": candidate.score, "prediction": candidate.prediction, "version": self.candidate.version}
        where = {"http_request_id": form.request_id, "row": form.row, "model": self.candidate.name}
        logger.info("shadow", extra={**where, **scores, "shadow": shadow, "log_to_stderr": False})


@dataclass(frozen=True, order=True)
class _Waiting:
    """A pair that waits for the candidate; `lot` decides who goes where there are too many."""

    lot: float
    form: PairForm = field(compare=False)
    verdict: Verdict = field(compare=False)

    @property
    def size(self) -> int:
        """Bytes of its pictures."""
        pictures = (self.form.test, *self.form.goldens)
        return sum(len(content) for picture in pictures for content in picture.values())


def _sums(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]
