"""What the service counts."""

import asyncio
import dataclasses
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serve.drift import LEAST
from serve.metrics import INSTRUMENTS, Metrics
from serve.middleware import Envelope


class Records:
    def __init__(self):
        self.all = []

    def record(self, name, value, tags):
        assert set(tags) == set(INSTRUMENTS[name].tags), name
        assert all(isinstance(tag, str) for tag in tags.values())
        self.all.append((name, value, tags))

    def of(self, name):
        return [(value, tags) for each, value, tags in self.all if each == name]


@pytest.fixture
def records():
    return Records()


@pytest.fixture
def counted(models, shared, records, app_of):
    metrics = Metrics(records)
    for model in models.values():
        model.shared = dataclasses.replace(shared, metrics=metrics)
    return TestClient(app_of(*models.values(), metrics=metrics), raise_server_exceptions=False)


def test_an_inspection_is_counted(counted, records, picture):
    counted.post("/v1/models/pcb/inspect", files={"test": picture(255), "golden": picture(0)})
    route = {"route": "/v1/models/{model}/inspect"}
    assert records.of("changenet_requests") == [(1, {**route, "method": "POST", "status": "200"})]
    assert [tags["stage"] for _, tags in records.of("changenet_stage_seconds")] == ["read", "decode", "engine"]
    assert all(value >= 0 for value, _ in records.of("changenet_stage_seconds"))
    version = {"model": "pcb", "version": "0123456789ab"}
    assert records.of("changenet_decisions") == [(1, {**version, "prediction": "FAIL"})]
    assert records.of("changenet_score") == [(1.0, version)]
    assert records.of("changenet_batch_pairs") == [(1, {"model": "pcb"})]
    assert records.of("changenet_goldens") == [(1, {"model": "pcb", "cached": "false"})]
    ((seconds, _),) = records.of("changenet_engine_seconds")
    ((waited, _),) = [each for each in records.of("changenet_stage_seconds") if each[1]["stage"] == "engine"]
    assert 0 < seconds <= waited


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"<html>", "not-a-picture"), (b"\x89PNG", "unreadable-picture"), (None, "picture-too-large")],
)
def test_refused_pictures_are_counted_by_problem(counted, records, picture, content, problem):
    files = {"test": content or picture(size=(101, 100)), "golden": picture()}
    counted.post("/v1/models/pcb/inspect", files=files)
    assert records.of("changenet_picture_errors") == [(1, {"model": "pcb", "problem": problem})]
    assert not records.of("changenet_decisions")


def test_paths_that_strangers_make_up_are_not_kept(counted, records):
    counted.get("/v1/models/made-up")
    counted.get("/made-up")
    assert [tags["route"] for _, tags in records.of("changenet_requests")] == ["/v1/models/{model}", "none"]


def test_a_crash_is_counted(counted, models, records, picture, monkeypatch):
    monkeypatch.setattr(models["pcb"].inspector, "verdicts", lambda *_: 1 / 0)
    counted.post("/v1/models/pcb/inspect", files={"test": picture(), "golden": picture()})
    assert records.of("changenet_requests")[0][1]["status"] == "500"


def test_drift_is_told_for_each_version(models, records):
    metrics, description = Metrics(records), models["pcb"].inspector.description
    for _ in range(LEAST):
        metrics.decision("pcb", "new", description=description, score=0.9, prediction="FAIL")
    ((index, tags),) = records.of("changenet_score_drift")
    assert tags == {"model": "pcb", "version": "new"} and index >= 0
    for _ in range(2):
        metrics.retired("pcb", "new")
    assert records.of("changenet_score_drift")[1:] == [(0.0, tags)], "an alarm of what answers no more would never end"


def test_a_client_that_goes_is_counted_as_such(records):
    async def leaves(*_):
        raise asyncio.CancelledError

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "state": {}}
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Envelope(leaves, Metrics(records))(scope, None, None))
    ((_, tags),) = records.of("changenet_requests")
    assert tags["status"] == "499"


def test_every_metric_is_documented():
    text = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    written = set(re.findall(r"`ray_(changenet_\w+?)(?:_total)?`", text))
    assert written == set(INSTRUMENTS)
