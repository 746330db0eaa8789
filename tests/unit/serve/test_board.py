"""`inspect_batch`: a whole board in one request."""

import json

import numpy as np
import pytest

URL = "/v1/models/pcb/inspect_batch"


def post(client, rows, parts, *, url=URL, as_file=False):
    manifest = rows if isinstance(rows, str) else json.dumps(rows)
    files = [(name, (name, content)) for name, content in parts.items()]
    if as_file:
        return client.post(url, files=[("manifest", ("board.json", manifest)), *files])
    return client.post(url, data={"manifest": manifest}, files=files)


def row(name, test, golden="g", **more):
    return {"id": name, "test": {"": test}, "golden": {"": golden}, **more}


@pytest.mark.parametrize("as_file", [True, False])
def test_results_come_in_the_order_of_the_manifest(client, models, picture, as_file):
    parts = {f"t{level}": picture(level) for level in range(0, 250, 5)} | {"g": picture(0)}
    rows = [row(f"C{level}", f"t{level}") for level in reversed(range(0, 250, 5))]
    answer = post(client, rows, parts, as_file=as_file)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [result["id"] for result in results] == [each["id"] for each in rows]
    assert [result["score"] for result in results] == pytest.approx([n / 255 for n in reversed(range(0, 250, 5))])
    batches = models["pcb"].inspector.engine.batches
    assert 51 <= sum(batches) < 100 and max(batches) <= 100, (
        "the golden that rows share is encoded once a batch at most"
    )


def test_a_bad_picture_fails_its_own_row_only(client, picture):
    parts = {
        "a": picture(255),
        "b": b"<html>",
        "c": picture(9)[:-30],
        "d": picture(0, size=(101, 100)),
        "g": picture(0),
    }
    rows = [row(name, name) for name in "abcd"] + [{"id": "e", "test": {"": "a"}, "golden_id": "unknown"}]
    results = post(client, rows, parts).json()["results"]
    assert [result["error"] and result["error"]["status"] for result in results] == [None, 415, 400, 413, 404]
    assert [result["prediction"] for result in results] == ["FAIL"] + ["ERROR"] * 4
    assert [result["score"] for result in results] == [1.0] + [None] * 4


def test_rows_choose_registered_goldens_and_thresholds(client, picture):
    client.put("/v1/models/pcb/goldens/R1", files={"golden": picture(0)})
    rows = [
        {"id": "a", "test": {"": "t"}, "golden_id": "R1"},
        {"id": "b", "test": {"": "t"}, "golden_id": "R1", "threshold": 0.9},
    ]
    results = post(client, rows, {"t": picture(200)}).json()["results"]
    assert [(each["prediction"], each["threshold_source"]) for each in results] == [
        ("FAIL", "model"),
        ("PASS", "request"),
    ]


def test_lights_and_several_goldens(client, picture):
    parts = {"s": picture(255), "w": picture(0)}
    rows = [{"id": "a", "test": {"Solder": "s", "White": "w"}, "golden": {"Solder": "w", "White": "w"}}]
    (result,) = post(client, rows, parts, url="/v1/models/lights/inspect_batch").json()["results"]
    assert result["score"] == pytest.approx(0.5)
    rows = [{"id": "a", "test": {"": "s"}, "golden": [{"": "w"}, {"": "w"}, {"": "s"}]}]
    (result,) = post(client, rows, parts, url="/v1/models/goldens/inspect_batch").json()["results"]
    assert result["score"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("nonsense", "manifest"),
        ([{"id": "a", "test": {"": "t"}}], "either golden or golden_id"),
        ([row("a", "t", golden_id="R1")], "either golden or golden_id"),
        ([row("a", "t"), row("a", "t")], "'a' is there 2 times"),
        ([row("a", "gone")], "no part 'gone'"),
        ([{"id": "a", "test": {"White": "t"}, "golden": {"": "g"}}], "lights"),
        ([row("a", "t", limit=1)], "limit"),
        ([{"id": "a", "test": {"": "t"}, "golden": [{"": "g"}, {"": "g"}]}], "at most 1"),
        ([row("a", "t", "t")], "no row names the part 'g'"),
        ("[" * 100_000, "manifest"),
    ],
)
def test_a_wrong_manifest_is_422_and_names_the_row(client, picture, rows, words):
    response = post(client, rows, {"t": picture(), "g": picture()})
    assert response.status_code == 422, response.text
    assert words in response.json()["detail"]


def test_all_wrong_rows_are_told_but_no_more_than_twenty(client, picture):
    response = post(client, [row(f"r{n}", "gone") for n in range(50)], {"g": picture()})
    assert len(response.json()["problems"]) == 20 and "30 more" in response.json()["detail"]


def test_an_empty_board_is_no_error(client):
    assert post(client, [], {}, as_file=True).json()["results"] == []


def test_boards_have_limits_of_their_own(client_of, picture):
    parts = {"t": picture(), "g": picture()}
    client = client_of(request_bytes=600, batch_bytes=3000, batch_rows=2, batch_parts=4)
    assert post(client, [row("a", "t")], parts).status_code == 200, "larger than other requests may be"
    assert post(client, [row(n, "t") for n in "abc"], parts).status_code == 413
    assert post(client, [row("a", "t")], parts | {"x": bytes(3000)}).status_code == 413
    assert post(client, [row("a", "t")], parts | {name: picture() for name in "wxyz"}).status_code == 400
    like_a_board = client.put("/v1/models/pcb/goldens/inspect_batch", files={"golden": picture() + bytes(1000)})
    assert like_a_board.status_code == 413


def test_a_board_takes_the_places_of_as_many_requests_as_it_is_larger(client_of, picture):
    client = client_of(inspections=20, request_bytes=1 << 20, batch_bytes=4 << 20)
    hold = client.app.state.service.admission.hold
    large, small = ({"t": picture() + bytes(more), "g": picture()} for more in (2 << 20, 0))
    with hold(18):
        refused = post(client, [row("a", "t")], large)
        assert refused.status_code == 503 and refused.headers["retry-after"]
    with hold(17):
        assert post(client, [row("a", "t")], large).status_code == 200
    with hold(19):
        assert post(client, [row("a", "t")], small).status_code == 200
    with hold(20):
        assert post(client, [row("a", "t")], small).status_code == 503


def test_a_score_that_is_no_number_is_an_error_and_no_verdict(client, models, picture):
    engine = models["pcb"].inspector.engine
    compare = engine.compare
    engine.compare = lambda tests, goldens: np.where(tests[0][:, 0] == 9, np.nan, compare(tests, goldens))
    results = post(client, [row("a", "a"), row("b", "b")], {"a": picture(9), "b": picture(0), "g": picture(0)}).json()
    bad, good = results["results"]
    assert (bad["prediction"], bad["score"], bad["error"]["status"]) == ("ERROR", None, 422)
    assert (good["prediction"], good["score"]) == ("PASS", 0.0)
    single = client.post("/v1/models/pcb/inspect", files={"test": picture(9), "golden": picture(0)})
    assert single.status_code == 422 and single.json()["type"].endswith("no-score")


def test_an_engine_that_fails_once_fails_the_rows_of_that_call_only(client, models, picture, monkeypatch):
    engine = models["pcb"].inspector.engine
    encode, calls = engine.encode, []

    def fail_second(pictures):
        calls.append(len(pictures))
        return encode(pictures) if len(calls) != 2 else 1 / 0

    monkeypatch.setattr(engine, "encode", fail_second)
    parts = {f"t{level}": picture(level) for level in range(100)} | {"g": picture(0)}
    answer = post(client, [row(f"C{level}", f"t{level}") for level in range(100)], parts)
    assert answer.status_code == 200, answer.text
    failed = [each["error"] for each in answer.json()["results"] if each["error"]]
    assert len(calls) > 2 and 0 < len(failed) < 100
    assert {(each["status"], each["type"]) for each in failed} == {(503, "urn:changenet:problem:engine-failed")}
