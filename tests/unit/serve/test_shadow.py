"""The sample that a candidate judges, and what is counted of it."""

import asyncio
import dataclasses

import numpy as np
import pytest

from changenet.evaluation.metrics import score_histogram
from changenet.inspection import Verdict
from serve import shadow as module
from serve.form import PairForm
from serve.inspector import ServedModel
from serve.metrics import Metrics
from serve.model_state import Candidate
from serve.settings import Source
from serve.shadow import AT_ONCE, Shadow


@pytest.fixture
def shadow_of(shared, inspector_of):
    """Makes a candidate that sees a share, beside a model like it."""

    def make(traffic=1.0, metrics=None):
        inspector = inspector_of()
        beside, candidate = (
            ServedModel(name="pcb", version=version, inspector=inspector, shared=shared) for version in ("1", "2")
        )
        candidate.shared = dataclasses.replace(shared, metrics=metrics or Metrics())
        return Shadow(candidate, Candidate(source=Source(bundle="b"), traffic=traffic), beside=beside)

    return make


async def judged(shadow, forms):
    """Offer all forms at once, as a board does, and return the numbers of those that were judged."""
    verdict = shadow.beside.inspector.verdicts(np.zeros(1, np.float32))[0]
    numbers = {id(form): number for number, form in enumerate(forms)}
    seen, inspect = [], shadow.candidate.inspect

    async def count(form):
        seen.append(numbers[id(form)])
        return await inspect(form)

    shadow.candidate.inspect = count
    for form in forms:
        shadow.offer(form, verdict)
    while shadow._judges:
        await asyncio.sleep(0.001)
    return seen


def board(picture, rows):
    return [PairForm({"": picture(row % 256)}, ({"": picture(0)},)) for row in range(rows)]


def test_every_row_of_a_board_is_judged_while_there_is_room(shadow_of, picture):
    shadow = shadow_of()
    assert sorted(asyncio.run(judged(shadow, board(picture, 300)))) == list(range(300))
    assert (shadow.tally.pairs, shadow.tally.skipped, shadow._bytes) == (300, 0, 0)


def test_a_share_is_drawn_over_all_rows(shadow_of, picture):
    seen = asyncio.run(judged(shadow_of(0.3), board(picture, 300)))
    assert 50 < len(seen) < 140 and 110 < np.mean(seen) < 190


def test_of_too_many_pairs_those_that_stay_are_a_fair_sample(shadow_of, picture, monkeypatch):
    forms = board(picture, 300)
    pair = len(picture(0)) * 2
    monkeypatch.setattr(module, "WAITING_BYTES", 40 * pair + pair // 2)
    rows = []
    for _ in range(5):
        shadow = shadow_of()
        seen = asyncio.run(judged(shadow, forms))
        assert len(seen) + shadow.tally.skipped == 300 and 30 < len(seen) < 60
        rows += seen
    assert 120 < np.mean(rows) < 180, "neither the first rows nor the last"


def test_a_shadow_that_is_stopped_ends_what_it_has_begun(shadow_of, picture):
    shadow = shadow_of()
    inspect = shadow.candidate.inspect

    async def stop_then_inspect(form):
        shadow.stop()
        return await inspect(form)

    shadow.candidate.inspect = stop_then_inspect
    verdict = shadow.beside.inspector.verdicts(np.zeros(1, np.float32))[0]

    async def run():
        for form in board(picture, 50):
            shadow.offer(form, verdict)
        while shadow._judges:
            await asyncio.sleep(0.001)

    asyncio.run(run())
    assert 1 <= shadow.tally.pairs <= AT_ONCE and shadow._bytes == 0


def test_the_work_of_its_engine_is_counted_apart_and_nothing_it_decides(shadow_of, picture):
    counted = []

    class Sink:
        def record(self, name, value, tags):
            counted.append((name, value, tags))

    shadow = shadow_of(metrics=Metrics(Sink()))
    again = Shadow(shadow.candidate, shadow.wanted, beside=shadow.beside)
    asyncio.run(judged(again, board(picture, 3)))
    assert {name for name, _, _ in counted} == {"changenet_engine_seconds", "changenet_batch_pairs"}
    assert all(value > 0 and tags == {"model": "pcb (shadow)"} for _, value, tags in counted)


def test_both_scores_of_every_pair_are_in_the_log(shadow_of, picture, caplog):
    shadow = shadow_of()
    forms = [dataclasses.replace(form, request_id="r1", row=f"R{row}") for row, form in enumerate(board(picture, 3))]
    with caplog.at_level("INFO", logger="serve.shadow"):
        asyncio.run(judged(shadow, forms))
    found = {record.row: record for record in caplog.records if record.msg == "shadow"}
    assert found.keys() == {"R0", "R1", "R2"}
    assert (found["R2"].http_request_id, found["R2"].model, found["R2"].version) == ("r1", "pcb", "1")
    assert found["R2"].score == 0 and found["R2"].shadow == {
        "score": pytest.approx(2 / 255),
        "prediction": "PASS",
        "version": "2",
    }


def test_a_score_that_is_no_number_is_an_error_of_the_candidate(shadow_of, picture):
    shadow = shadow_of()
    shadow.candidate.inspector.engine.compare = lambda tests, _: np.full(len(tests[0]), np.nan, np.float32)
    asyncio.run(judged(shadow, board(picture, 3)))
    assert (shadow.tally.pairs, shadow.tally.errors) == (0, 3)


def test_the_drift_of_a_sharp_candidate_is_seen(shadow_of):
    """Both say PASS to all; the scores of the candidate lie ten times as high."""
    shadow = shadow_of()
    logits = np.random.default_rng(0).normal(-12, 1.5, 1000)
    scores = 1 / (1 + np.exp(-logits))
    description = shadow.candidate.inspector.description
    histogram = score_histogram(scores, np.zeros(1000, bool))
    shadow.candidate.inspector.description = dataclasses.replace(description, validation_scores=histogram)
    shadow = Shadow(shadow.candidate, shadow.wanted, beside=shadow.beside)
    active = [Verdict(score=score, threshold=0.5, prediction="PASS") for score in scores]
    for before in active:
        shadow.tally.add(before, dataclasses.replace(before, score=10 * before.score), shadow._borders)
    report = shadow.tally.report(model="pcb", active="1", candidate="2", traffic=1.0)
    assert report.agreement == 1 and report.drift > 0.25
