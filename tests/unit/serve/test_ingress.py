"""What clients get for right and wrong requests, without Ray."""

import asyncio
import json
import logging
import time
import tracemalloc

import pytest
from fastapi import Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from changenet.errors import EngineError
from serve.form import read_parts
from serve.inspector import FAILURES

V2_ROUTES = ("", "/ready", "/infer")


def post(client, files, model="pcb", **extra):
    return client.post(f"/v1/models/{model}/inspect", files=files, **extra)


def problem(response, status, kind):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["type"] == f"urn:changenet:problem:{kind}"
    assert body["detail"] and body["title"] and body["request_id"]
    return body


def test_a_pair_is_decided(client, picture):
    answer = post(client, {"test": picture(255), "golden": picture(0)})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(body) == {
        *("model", "version", "engine", "score", "threshold", "threshold_source", "prediction", "golden_cached"),
        "timing_ms",
    }
    assert body["score"] == 1.0 and body["threshold"] == 0.5 and body["prediction"] == "FAIL"
    assert body["model"] == "pcb" and body["version"] == "0123456789ab" and body["engine"] == "fake"
    assert body["golden_cached"] is False
    assert set(body["timing_ms"]) == {"read", "decode", "engine", "total"}
    assert post(client, {"test": picture(10), "golden": picture(0)}).json()["prediction"] == "PASS"


def test_lights_are_parts_with_a_suffix_in_any_order(client, picture):
    files = [
        ("golden.White", picture(0)),
        ("test.White", picture(255)),
        ("test.Solder", picture(0)),
        ("golden.Solder", picture(0)),
    ]
    assert post(client, files, "lights").json()["score"] == pytest.approx(0.5)


def test_several_goldens_repeat_the_part(client, picture):
    files = [("test", picture(255)), ("golden", picture(0)), ("golden", picture(255))]
    # Fewer than the model's three are used in turn: 0, 255, 0.
    assert post(client, files, "goldens").json()["score"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("parts", "model", "words"),
    [
        (["test"], "pcb", "'golden' is missing"),
        (["golden"], "pcb", "'test' is missing"),
        (["test", "golden", "golden"], "pcb", "at most 1"),
        (["test", "test", "golden"], "pcb", "at most 1"),
        (["test", "golden", "gold"], "pcb", "unknown part 'gold'"),
        (["test", "golden", "test.White"], "pcb", "unknown part 'test.White'"),
        (["test.Solder", "golden.Solder", "golden.White"], "lights", "'test.White' is missing"),
        (["test", "golden"], "lights", "'test.Solder' is missing"),
        (["test", *["golden"] * 4], "goldens", "at most 3"),
    ],
)
def test_wrong_fields_are_422_and_named(client, picture, parts, model, words):
    body = problem(post(client, [(name, picture()) for name in parts], model), 422, "wrong-fields")
    assert words in body["detail"]


def test_all_wrong_fields_are_told_at_once(client, picture):
    body = problem(post(client, {"tset": picture(), "glden": picture()}), 422, "wrong-fields")
    assert len(body["problems"]) == 4


def test_golden_and_golden_id_exclude_each_other(client, picture):
    files = {"test": picture(), "golden": picture()}
    found = problem(post(client, files, data={"golden_id": "R1"}), 422, "wrong-fields")
    assert found["problems"] == ["send golden pictures or golden_id, not both"]


def test_an_unregistered_golden_is_404(client, picture):
    body = problem(post(client, {"test": picture()}, data={"golden_id": "R1"}), 404, "no-such-golden")
    assert "R1" in body["detail"]


def test_a_threshold_of_the_request_decides_and_the_answer_says_so(client, picture):
    files = {"test": picture(255), "golden": picture(100)}
    answers = [post(client, files, data=data).json() for data in ({}, {"threshold": "0.7"})]
    assert [(each["prediction"], each["threshold"], each["threshold_source"]) for each in answers] == [
        ("FAIL", 0.5, "model"),
        ("PASS", 0.7, "request"),
    ]
    for wrong in ("high", "nan", "inf"):
        assert "threshold" in problem(post(client, files, data={"threshold": wrong}), 422, "wrong-fields")["detail"]


def test_an_unknown_model_is_404(client, picture):
    problem(post(client, {"test": picture(), "golden": picture()}, "nope"), 404, "no-such-model")
    problem(client.get("/v1/models/nope"), 404, "no-such-model")
    problem(client.get("/nowhere"), 404, "no-such-route")
    refused = problem(client.delete("/v1/models"), 405, "method-not-allowed")
    assert refused["detail"] == "DELETE cannot be done here; this route takes GET."
    answer = client.post("/v1/models/pcb/goldens/R1")
    assert "this route takes GET, PUT, DELETE." in problem(answer, 405, "method-not-allowed")["detail"]
    assert answer.headers["allow"] == "GET, PUT, DELETE"


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        (b"<html>", 415, "not-a-picture"),
        (b"%PDF-1.7 ...", 415, "not-a-picture"),
        (b"", 400, "unreadable-picture"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, 400, "unreadable-picture"),
    ],
)
@pytest.mark.parametrize("role", ["test", "golden"])
def test_what_is_no_picture_is_refused(client, picture, role, content, status, kind):
    body = problem(post(client, {"test": picture(), "golden": picture(), role: content}), status, kind)
    assert role in body["detail"]


def test_a_truncated_picture_is_400(client, picture):
    whole = picture(7, size=(64, 64), kind="JPEG")
    problem(post(client, {"test": whole[:-40], "golden": picture()}), 400, "unreadable-picture")


def test_a_picture_of_too_many_pixels_is_413(client, picture):
    problem(post(client, {"test": picture(size=(101, 100)), "golden": picture()}), 413, "picture-too-large")


def test_text_where_a_file_belongs_is_400(client, picture):
    problem(post(client, {"golden": picture()}, data={"test": "hello"}), 400, "wrong-part")
    problem(post(client, {"test": picture(), "golden_id": b"R1"}), 400, "wrong-part")


def test_a_text_that_is_there_twice_is_422(client, picture):
    files = {"test": picture(), "golden": picture()}
    problem(post(client, files, data={"threshold": ["0.1", "0.9"]}), 422, "wrong-fields")


def test_a_body_that_is_no_multipart_is_refused(client):
    problem(client.post("/v1/models/pcb/inspect", json={}), 415, "not-multipart")
    form = {"content-type": "multipart/form-data; boundary=x"}
    problem(client.post("/v1/models/pcb/inspect", content=b"nonsense", headers=form), 400, "malformed-multipart")
    form = {"content-type": "multipart/form-data"}
    problem(client.post("/v1/models/pcb/inspect", content=b"", headers=form), 400, "malformed-multipart")


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_413(client_of, picture, announced):
    client = client_of(request_bytes=1000)
    request = client.build_request(
        "POST", "/v1/models/pcb/inspect", files={"test": picture() + b"\0" * 1500, "golden": picture()}
    )
    content = request.read()
    headers = {"content-type": request.headers["content-type"]}
    chunks = content if announced else (content[at : at + 100] for at in range(0, len(content), 100))
    problem(client.post("/v1/models/pcb/inspect", content=chunks, headers=headers), 413, "request-too-large")


def test_an_inspection_too_many_is_503_with_retry_after(client_of, picture):
    client = client_of(inspections=1)
    with client.app.state.service.admission.hold():
        response = post(client, {"test": picture(), "golden": picture()})
        problem(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
        assert client.get("/v2/health/ready").status_code == 200
    assert post(client, {"test": picture(), "golden": picture()}).status_code == 200


def test_a_place_is_given_back_after_a_refused_request(client_of, picture):
    client = client_of(inspections=1)
    for _ in range(3):
        assert post(client, {"test": b"x", "golden": picture()}).status_code == 415
    assert post(client, {"test": picture(), "golden": picture()}).status_code == 200


def test_an_inspection_that_takes_too_long_is_408(client_of, models, picture, monkeypatch):
    client = client_of(request_seconds=0.05)
    monkeypatch.setattr(models["pcb"].inspector.engine, "encode", lambda *_: time.sleep(0.3))
    problem(post(client, {"test": picture(), "golden": picture()}), 408, "timeout")


def test_a_crash_is_a_problem_without_its_reason(client, models, picture, monkeypatch):
    monkeypatch.setattr(models["pcb"].inspector, "verdicts", lambda *_: 1 / 0)
    response = post(client, {"test": picture(), "golden": picture()})
    problem(response, 500, "internal")
    assert "ZeroDivision" not in response.text


def test_an_engine_that_fails_is_503_and_makes_its_replica_ill_until_it_succeeds(client, models, picture, monkeypatch):
    model = models["pcb"]
    with monkeypatch.context() as broken:
        broken.setattr(model.inspector.engine, "encode", lambda *_: 1 / 0)
        for _ in range(FAILURES):
            model.check_health()
            response = post(client, {"test": picture(), "golden": picture()})
            problem(response, 503, "engine-failed")
            assert response.headers["retry-after"] and "ZeroDivision" not in response.text
        with pytest.raises(EngineError, match="pcb"):
            model.check_health()
    assert post(client, {"test": picture(), "golden": picture()}).status_code == 200
    model.check_health()


def test_models_are_listed_and_described(client):
    listed = client.get("/v1/models").json()["models"]
    assert [model["name"] for model in listed] == ["pcb", "lights", "goldens"]
    facts = client.get("/v1/models/lights").json()
    assert facts["input"] == {
        "lights": ["Solder", "White"],
        "concat": "linear",
        "grid": [1, 1],
        "width": 8,
        "height": 8,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    assert facts["threshold"] == {"value": 0.5, "policy": "recall", "target": 1.0, "interval": [0.9, 1.0]}
    assert facts["validation_scores"]["PASS"] == [9, 0]
    assert "private" not in json.dumps(facts)


def test_health(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "http://" not in page.text and "https://" not in page.text
    assert all(f"<option>{name}</option>" in page.text for name in ("pcb", "lights", "goldens"))
    for asset in ("style.css", "inspection.js", "chart.js", "view.js", "service.js", "icon.svg"):
        assert client.get(f"/page/{asset}").status_code == 200
    assert client.get("/page/__init__.py").status_code == 404


def test_every_answer_has_the_security_headers(client):
    for path in ("/", "/v1/models", "/nowhere", "/page/style.css"):
        assert client.get(path).headers["x-content-type-options"] == "nosniff"


def test_a_request_leaves_one_log_line_without_its_pictures(client, picture, caplog):
    with caplog.at_level(logging.INFO, logger="serve.access"):
        post(client, {"test": picture(), "golden": picture()}, headers={"x-request-id": "abc"})
    (record,) = [record for record in caplog.records if record.name == "serve.access"]
    facts = {key: getattr(record, key) for key in ("http_request_id", "method", "path", "status", "model", "score")}
    assert facts == {
        "http_request_id": "abc",
        "method": "POST",
        "path": "/v1/models/pcb/inspect",
        "status": 200,
        "model": "pcb",
        "score": 0.0,
    }


def test_the_problem_names_the_request(client):
    assert client.get("/v1/models/nope", headers={"x-request-id": "line 7"}).json()["request_id"] == "line 7"


def test_the_interface_describes_itself(client):
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        *("/v1/models/{model}/inspect", "/v1/models", "/v1/models/{model}", "/v2/health/live", "/v2/health/ready"),
        *(f"/v1/models/{{model}}/{what}" for what in ("swap", "rollback", "shadow")),
        "/v1/models/{model}/goldens/{golden_id}/pictures/{digest}",
        *("/v1/models/{model}/goldens/{golden_id}", "/v1/models/{model}/inspect_batch", "/v2"),
        *(f"/v2/models/{{model}}{version}{what}" for version in ("", "/versions/{version}") for what in V2_ROUTES),
    }


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=300),
    head=st.sampled_from(
        [b"", b"--x\r\n", b'--x\r\nContent-Disposition: form-data; name="test"; filename="a"\r\n\r\n']
    ),
    tail=st.sampled_from([b"", b"\r\n--x--", b"\r\n--x--\r\n"]),
)
def test_no_body_crashes_the_service(client, body, head, tail):
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = client.post("/v1/models/pcb/inspect", content=head + body + tail, headers=headers)
    assert 400 <= response.status_code < 500
    assert response.headers["content-type"] == "application/problem+json"


def test_a_body_is_in_memory_once():
    part, parts = bytes(1 << 20), 24
    head = b'--x\r\nContent-Disposition: form-data; name="p%d"; filename="a"\r\n\r\n'
    chunks = iter([piece for number in range(parts) for piece in (head % number, part, b"\r\n")] + [b"--x--\r\n"])

    async def receive():
        chunk = next(chunks)
        return {"type": "http.request", "body": chunk, "more_body": chunk != b"--x--\r\n"}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"multipart/form-data; boundary=x")]}
    tracemalloc.start()
    uploads, _ = asyncio.run(read_parts(Request(scope, receive), fields=()))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(uploads) == parts and most < 1.4 * parts * len(part)
