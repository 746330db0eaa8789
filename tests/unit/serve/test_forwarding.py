"""Models with replicas of their own: the same answers, through a handle that is one of Ray Serve's for all that it knows."""

import asyncio
import json
import logging
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.schema import DeploymentStatus, ReplicaState

from serve import elsewhere
from serve.forwarding import answer
from serve.ingress import create_routes
from serve.keys import KeyRing, add_key
from serve.metrics import Metrics
from serve.model_state import StateFiles
from serve.remote import Deployments, RayModel
from serve.settings import Limits, Source

PCB = "/v1/models/pcb"


class Response:
    def __init__(self, coroutine):
        self.coroutine = coroutine
        self.cancelled = False

    def __await__(self):
        return self.coroutine.__await__()

    def cancel(self):
        self.cancelled = True


class Handle:
    """Of a deployment with one replica; fails as often as it is told to, before or after the replica answered."""

    deployment_name = "inspection-pcb"

    def __init__(self, app):
        self.app = app
        self.failures = []
        self.asked = []
        self.responses = []

    def options(self, *, method_name):
        assert method_name == "answer"
        return self

    def remote(self, request):
        self.asked.append(request)
        self.responses.append(Response(self._answer(request)))
        return self.responses[-1]

    async def _answer(self, request):
        if self.failures:
            failure = self.failures.pop(0)
            if failure is None:
                await asyncio.sleep(60)
            raise failure
        return await answer(self.app, request)


class Sink:
    def __init__(self):
        self.counts = Counter()

    def record(self, name, _value, _tags):
        self.counts[name] += 1


@pytest.fixture
def sinks():
    return Sink(), Sink()


@pytest.fixture
def handle(keeper_of, load, sinks, tmp_path):
    keeper = keeper_of(load("pcb", Source(bundle="/good")), load=load, files=StateFiles(str(tmp_path / "state")))
    return Handle(create_routes(keeper, Limits(), metrics=Metrics(sinks[1]), remotes={}))


@pytest.fixture
def overview():
    return SimpleNamespace(status=DeploymentStatus.HEALTHY, replica_states={ReplicaState.RUNNING: 1}, message="")


@pytest.fixture
def remotes(handle, overview):
    return {"pcb": RayModel("pcb", handle, Deployments(lambda: {"inspection-pcb": overview}))}


@pytest.fixture
def client(app_of, models, remotes, sinks):
    app = app_of(models["lights"], remotes=remotes, metrics=Metrics(sinks[0]))
    return TestClient(app, raise_server_exceptions=False)


def inspect(client, picture, model="pcb", **given):
    lights = ("",) if model == "pcb" else (".Solder", ".White")
    files = {f"{role}{light}": picture(level) for role, level in (("test", 80), ("golden", 0)) for light in lights}
    return client.post(f"/v1/models/{model}/inspect", files=files, **given)


def test_every_request_is_answered_as_by_a_replica_that_has_the_model(client, load, app_of, picture, handle):
    fused = TestClient(app_of(load("pcb", Source(bundle="/good"))), raise_server_exceptions=False)
    board = [{"id": "1", "test": {"": "a"}, "golden": {"": "b"}}, {"id": "2", "test": {"": "b"}, "golden_id": "no"}]
    tensors = [{"name": f"input_{n}", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [n] * 192} for n in (1, 2)]
    binary = {"inputs": [{k: v for k, v in each.items() if k != "data"} for each in tensors]}
    for each in binary["inputs"]:
        each["parameters"] = {"binary_data_size": 768}
    head = json.dumps(binary | {"parameters": {"binary_data_output": True}}).encode()
    raw = head + np.ones(192, "<f4").tobytes() + np.zeros(192, "<f4").tobytes()
    requests = [
        ("POST", f"{PCB}/inspect", {"files": {"test": picture(80), "golden": picture(0)}}),
        ("POST", f"{PCB}/inspect", {"files": {"test": picture(80), "golden": picture(0)}, "data": {"threshold": "0.1"}}),
        ("POST", f"{PCB}/inspect", {"files": {"test": b"no picture", "golden": picture(0)}}),
        ("POST", f"{PCB}/inspect", {"content": b"x"}),
        ("POST", "/v1/models/p%63b/inspect", {"files": {"test": picture(0)}}),
        ("POST", f"{PCB}/inspect_batch", {"data": {"manifest": json.dumps(board)}, "files": {"a": picture(9), "b": picture()}}),
        ("GET", PCB, {}),
        ("PUT", f"{PCB}/inspect", {}),
        ("PUT", f"{PCB}/goldens/R1", {"files": {"golden": picture(0)}}),
        ("GET", f"{PCB}/goldens/R1", {}),
        ("DELETE", f"{PCB}/goldens/R1", {}),
        ("GET", f"{PCB}/goldens/R1", {}),
        ("GET", f"{PCB}/goldens/a%20b", {}),
        ("GET", f"{PCB}/shadow", {}),
        ("GET", "/v2/models/pcb", {}),
        ("GET", "/v2/models/pcb/versions/good/ready", {}),
        ("GET", "/v2/models/pcb/versions/other", {}),
        ("POST", "/v2/models/pcb/infer", {"json": {"id": "7", "inputs": tensors}}),
        ("POST", "/v2/models/pcb/infer", {"content": raw, "headers": {"inference-header-content-length": str(len(head))}}),
        ("POST", "/v2/models/pcb/infer", {"content": b"{"}),
    ]  # fmt: skip
    answers = [[each.request(method, path, **given) for method, path, given in requests] for each in (client, fused)]
    for request, there, here in zip(requests, *answers, strict=True):
        assert (there.status_code, *strip(there)) == (here.status_code, *strip(here)), request[:2]
    assert len(handle.asked) == len(requests) - 1, "a wrong method is no request of the model"


def strip(response):
    """Return what two replicas agree on."""
    try:
        body = response.json()
    except ValueError:
        return response.content, ""
    for name in ("timing_ms", "request_id", "registered", "golden_cached"):
        body.pop(name, None)
    return body, [response.headers.get(name) for name in ("content-type", "inference-header-content-length")]


def test_a_request_is_counted_and_logged_once_where_it_came_in(client, picture, sinks, caplog):
    with caplog.at_level(logging.INFO, logger="serve.access"):
        answered = inspect(client, picture, headers={"x-request-id": "abc"})
    assert answered.status_code == 200 and answered.headers["x-content-type-options"] == "nosniff"
    (record,) = [each for each in caplog.records if each.name == "serve.access"]
    assert (record.http_request_id, record.model, record.score) == ("abc", "pcb", answered.json()["score"])
    here, there = (sink.counts for sink in sinks)
    assert (here["changenet_requests"], there["changenet_requests"]) == (1, 0)
    refused = client.post(f"{PCB}/inspect", files={"test": b"x"}, headers={"x-request-id": "line 7"})
    assert refused.json()["request_id"] == "line 7"


def test_keys_are_asked_for_here_and_stay_here(app_of, remotes, handle, picture, tmp_path):
    file = str(tmp_path / "keys.txt")
    key = {"Authorization": f"Bearer {add_key(file, 'line')}"}
    client = TestClient(app_of(remotes=remotes, keys=KeyRing(file)))
    assert inspect(client, picture).status_code == 401
    assert client.post(f"{PCB}/swap", json={"bundle": "/strict"}, headers=key).status_code == 403
    assert handle.asked == []
    assert inspect(client, picture, headers=key).status_code == 200
    assert "authorization" not in {name.decode().lower() for name, _ in handle.asked[-1].headers}


def test_bodies_are_limited_before_they_are_passed_on(app_of, remotes, handle, picture):
    client = TestClient(app_of(remotes=remotes, request_bytes=100, batch_bytes=400))
    assert inspect(client, picture).status_code == 413
    assert client.post(f"{PCB}/inspect", content=iter([b"x" * 60] * 2)).status_code == 413
    assert handle.asked == []


MIB = 1 << 20


@pytest.mark.parametrize(
    ("path", "length", "known", "unknown"),
    [("inspect", MIB, 1, 1), ("goldens/R1", 9, 1, 1), ("inspect_batch", 2 * MIB, 2, 4), ("infer", MIB // 2, 4, 8)],
)
def test_a_request_takes_as_many_places_as_its_body_and_here_as_where_it_is_answered(
    app_of, load, remotes, path, length, known, unknown
):
    """Of a body that does not say how long it is, as many as the largest would take."""

    def client(*models, **more):
        return TestClient(app_of(*models, inspections=20, request_bytes=MIB, batch_bytes=4 * MIB, **more))

    method, url = ("PUT" if "/" in path else "POST"), f"{'/v2/models/pcb' if path == 'infer' else PCB}/{path}"
    fused = client(load("pcb", Source(bundle="/good")))
    passing = client(remotes=remotes)
    service = passing.app.state.service
    for each, admission in ((fused, fused.app.state.service.admission), (passing, service.uploads["pcb"])):
        for places, body in ((known, length.to_bytes(length, "big")), (unknown, None)):
            with admission.hold(21 - places):
                assert each.request(method, url, content=body or iter([b"x"])).status_code == 503
            with admission.hold(20 - places):
                assert each.request(method, url, content=body or iter([b"x"])).status_code in (415, 422)


def test_swap_rollback_and_shadow_go_the_same_way(client, picture, handle):
    assert client.post(f"{PCB}/swap", json={"bundle": "/strict"}).json()["version"] == "strict"
    assert inspect(client, picture).json()["version"] == "strict"
    assert client.post(f"{PCB}/swap", json={"bundle": "/broken"}).status_code == 422
    (listed,) = (each for each in client.get("/v1/models").json()["models"] if each["name"] == "pcb")
    assert listed["failure"]["bundle"] == "/broken"
    assert client.post(f"{PCB}/rollback").json()["version"] == "good"
    assert client.put(f"{PCB}/shadow", json={"bundle": "/strict", "traffic": 0.5}).json()["shadow"] == "strict"
    assert client.delete(f"{PCB}/shadow").status_code == 204


def died():
    return ActorDiedError()


def test_a_replica_that_dies_is_replaced_by_another(client, picture, handle):
    handle.failures = [died(), died()]
    assert inspect(client, picture).json()["score"] == pytest.approx(80 / 255)
    assert len(handle.asked) == 3 and len({request.body for request in handle.asked}) == 1


@pytest.mark.parametrize("path", [f"{PCB}/swap", f"{PCB}/rollback"])
def test_what_may_happen_only_once_is_not_asked_again(client, handle, path):
    handle.failures = [died()]
    broken = client.post(path, json={"bundle": "/strict"})
    assert broken.status_code == 500 and broken.json()["type"].endswith("broken-off")
    assert len(handle.asked) == 1
    handle.failures = [DeploymentUnavailableError("pcb")]
    assert client.post(path, json={"bundle": "/strict"}).status_code == 503, "nothing was begun"


@pytest.mark.parametrize(
    ("failures", "kind"),
    [
        ([BackPressureError(9, 8)], "overloaded"),
        ([died(), died(), died()], "model-away"),
        ([DeploymentUnavailableError("pcb")] * 3, "model-away"),
        ([None], "model-away"),
    ],
)
def test_what_is_busy_or_away_is_503_for_its_clients_alone(
    app_of, models, remotes, handle, picture, failures, kind, monkeypatch
):
    monkeypatch.setattr(elsewhere, "EXTRA_SECONDS", 0.0)
    seconds = 1.0 if failures == [None] else 60.0
    client = TestClient(app_of(models["lights"], remotes=remotes, request_seconds=seconds))
    handle.failures = list(failures)
    refused = inspect(client, picture)
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
    assert refused.json()["type"] == f"urn:changenet:problem:{kind}" and "'pcb'" in refused.json()["detail"]
    assert inspect(client, picture, "lights").status_code == 200
    assert handle.responses[-1].cancelled is (failures == [None])
    assert inspect(client, picture).status_code == 200


def test_a_mistake_in_the_replica_is_a_problem_without_its_reason(client, picture, handle):
    handle.failures = [RayTaskError("answer", "Traceback: secret", ValueError("secret"))]
    crashed = inspect(client, picture)
    assert crashed.status_code == 500 and "secret" not in crashed.text and len(handle.asked) == 1
    assert crashed.headers["content-type"] == "application/problem+json"


def test_all_models_are_listed_and_on_the_page(client, models):
    listed = client.get("/v1/models").json()
    assert [each["name"] for each in listed["models"]] == ["lights", "pcb"] and listed["away"] == []
    assert all(f"<option>{name}</option>" in client.get("/").text for name in ("pcb", "lights"))
    assert client.get("/v1/models/nope").status_code == 404
    assert client.get("/v2/health/ready").status_code == 200


def test_a_model_that_is_away_is_told_and_one_that_sleeps_is_left_asleep(client, picture, handle, overview):
    overview.replica_states, overview.status = {ReplicaState.STARTING: 1}, DeploymentStatus.UNHEALTHY
    overview.message = (
        "Traceback (most recent call last):\n  File x\nchangenet.errors.CheckpointError: /b: no such folder"
    )
    listed = client.get("/v1/models").json()
    assert [each["name"] for each in listed["models"]] == ["lights"]
    assert listed["away"] == [{"name": "pcb", "reason": "/b: no such folder", "sleeps": False}]
    refused = client.get("/v2/health/ready")
    assert refused.status_code == 503 and "pcb" not in refused.text
    assert client.get("/v2/health/live").status_code == 200
    assert inspect(client, picture, "lights").status_code == 200


def test_a_model_that_sleeps_is_woken_by_its_own_requests_only(client, picture, handle, overview):
    overview.replica_states = {}
    assert client.get("/v1/models").json()["away"][0]["sleeps"] is True
    assert client.get("/v2/health/ready").status_code == 200
    assert client.get("/").status_code == 200 and handle.asked == []
    assert inspect(client, picture).status_code == 200


def test_where_ray_serve_does_not_say_how_it_is_the_model_is_asked(app_of, handle):
    def unknown():
        raise RuntimeError("the controller is away")

    client = TestClient(app_of(remotes={"pcb": RayModel("pcb", handle, Deployments(unknown))}))
    assert client.get("/v2/health/ready").status_code == 200
    assert [each["name"] for each in client.get("/v1/models").json()["models"]] == ["pcb"]
    handle.failures = [died()] * 3
    assert "pcb" in client.get("/v1/models").json()["away"][0]["reason"]


def test_ray_serve_is_asked_once_for_many(overview):
    asked = []

    async def many():
        deployments = Deployments(lambda: asked.append(1) or {"a": overview})
        return await asyncio.gather(*(deployments.overview("a") for _ in range(9)))

    assert asyncio.run(many()) == [overview] * 9 and len(asked) == 1
