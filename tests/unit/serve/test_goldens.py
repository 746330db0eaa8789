"""Goldens: registered, forgotten, shared between replicas, encoded once."""

import contextlib
import json
import logging
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
from fastapi.testclient import TestClient

from changenet import storage
from serve.golden_cache import GoldenCache
from serve.golden_registry import GoldenRegistry
from serve.inspector import ServedModel, Shared
from serve.loading import warm
from serve.problems import HttpError

URL = "/v1/models/pcb/goldens/R1"


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    """Where goldens are kept: a folder, or a URI."""
    return str(tmp_path / "goldens") if request.param == "local" else f"memory://{tmp_path.name}/goldens"


@pytest.fixture
def shared(folder):
    return Shared(ThreadPoolExecutor(2), ThreadPoolExecutor(2), 10_000, GoldenCache(1 << 20), GoldenRegistry(folder))


def files_in(folder):
    file_system, inside = fsspec.core.url_to_fs(folder)
    return sorted(file_system.find(inside))


def inspect(client, test, golden_id="R1", model="pcb"):
    return client.post(f"/v1/models/{model}/inspect", files={"test": test}, data={"golden_id": golden_id})


def put(client, *pictures, url=URL):
    return client.put(url, files=[("golden", content) for content in pictures])


def another_replica(folder, inspector):
    shared = Shared(ThreadPoolExecutor(1), ThreadPoolExecutor(1), 10_000, GoldenCache(1 << 20), GoldenRegistry(folder))
    return ServedModel(name="pcb", version="v", inspector=inspector, shared=shared)


def test_a_golden_is_registered_replaced_described_and_forgotten(client, picture):
    assert client.get(URL).status_code == 404
    new = put(client, picture(0))
    assert new.status_code == 201 and new.json()["golden_id"] == "R1"
    assert client.get(URL).json() == new.json()
    assert inspect(client, picture(255)).json()["score"] == 1.0
    replaced = put(client, picture(255))
    assert replaced.status_code == 200 and replaced.json()["pictures"] != new.json()["pictures"]
    assert inspect(client, picture(255)).json()["score"] == 0.0
    assert client.delete(URL).status_code == 204
    for gone in (client.get(URL), client.delete(URL), inspect(client, picture(255))):
        assert gone.status_code == 404 and gone.json()["type"] == "urn:changenet:problem:no-such-golden"


def test_nothing_of_a_forgotten_or_replaced_golden_stays_on_the_disk(client, picture, folder):
    put(client, picture(0))
    put(client, picture(1))
    assert len(files_in(folder)) == 2, "a record and one picture"
    client.delete(URL)
    assert files_in(folder) == []


def test_the_files_of_a_golden_are_given_back_and_no_others(client, picture):
    (digests,) = put(client, picture(7)).json()["pictures"]
    answer = client.get(f"{URL}/pictures/{digests['']}")
    assert answer.status_code == 200 and answer.content == picture(7)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    put(client, picture(8), url="/v1/models/pcb/goldens/R2")
    assert client.get(f"/v1/models/pcb/goldens/R2/pictures/{digests['']}").status_code == 404
    assert client.get(f"{URL}/pictures/..%2Frecord.json").status_code in (404, 422)
    client.delete(URL)
    assert client.get(f"{URL}/pictures/{digests['']}").status_code == 404


@pytest.mark.parametrize(("content", "status"), [(b"<html>", 415), (b"\x89PNG broken", 400)])
def test_only_pictures_are_registered(client, content, status):
    assert put(client, content).status_code == status
    assert client.get(URL).status_code == 404


@pytest.mark.parametrize("golden_id", ["..", ".", "a" * 128])
def test_every_allowed_id_stays_in_its_folder(models, picture, folder, golden_id):
    registry = models["pcb"].shared.registry
    registry.put("pcb", golden_id, [{"": picture(3)}])
    (record,) = (path for path in files_in(folder) if path.endswith("record.json"))
    assert record.endswith(f"/goldens/pcb.goldens/{golden_id}.golden/record.json")
    assert registry.ids("pcb") == [golden_id] and registry.forget("pcb", golden_id)


@pytest.mark.parametrize("golden_id", ["a b", "a" * 129, "ä"])
def test_other_ids_are_refused(client, picture, golden_id):
    assert put(client, picture(), url=f"/v1/models/pcb/goldens/{golden_id}").status_code == 422
    assert inspect(client, picture(), golden_id).status_code == 422


@pytest.mark.parametrize("golden_id", [".", ".."])
def test_ids_that_clients_take_out_of_a_path_are_refused(client, picture, golden_id):
    escaped = golden_id.replace(".", "%2E")  # as it stands, a client would ask for another path
    url = f"/v1/models/pcb/goldens/{escaped}"
    answers = [
        put(client, picture(), url=url),
        client.get(url),
        client.delete(url),
        inspect(client, picture(), golden_id),
    ]
    board = [{"id": "a", "test": {"": "t"}, "golden_id": golden_id}]
    given = {"data": {"manifest": json.dumps(board)}, "files": {"t": picture()}}
    for answer in (*answers, client.post("/v1/models/pcb/inspect_batch", **given)):
        assert answer.status_code == 422 and "golden_id" in answer.json()["detail"]


def test_lights_and_several_goldens_are_registered(client, picture):
    lights = [("golden.White", picture(0)), ("golden.Solder", picture(255))]
    answer = client.put("/v1/models/lights/goldens/R1", files=lights)
    assert answer.status_code == 201 and set(answer.json()["pictures"][0]) == {"Solder", "White"}
    files = {"test.White": picture(0), "test.Solder": picture(0)}
    body = client.post("/v1/models/lights/inspect", files=files, data={"golden_id": "R1"}).json()
    assert body["score"] == pytest.approx(0.5)
    put(client, picture(0), picture(0), picture(255), url="/v1/models/goldens/goldens/R1")
    assert inspect(client, picture(255), model="goldens").json()["score"] == pytest.approx(2 / 3)
    assert put(client, *[picture()] * 4, url="/v1/models/goldens/goldens/R1").status_code == 422


def test_a_golden_is_encoded_once_whether_registered_or_sent(client, models, picture):
    batches = models["pcb"].inspector.engine.batches
    files = {"test": picture(9), "golden": picture(7)}
    cached = [client.post("/v1/models/pcb/inspect", files=files).json()["golden_cached"] for _ in range(3)]
    assert cached == [False, True, True] and batches == [2, 1, 1]
    put(client, picture(7))
    assert inspect(client, picture(9)).json()["golden_cached"] is True


def test_another_engine_of_the_same_bundle_encodes_for_itself(app_of, inspector_of, shared, picture):
    files = {"test": picture(9), "golden": picture(7)}
    for engine in ("onnxruntime", "tensorrt"):
        inspector = inspector_of()
        inspector.engine.name = engine
        client = TestClient(app_of(ServedModel(name="pcb", version="v", inspector=inspector, shared=shared)))
        answers = [client.post("/v1/models/pcb/inspect", files=files).json()["golden_cached"] for _ in range(2)]
        assert answers == [False, True]


def test_a_service_without_a_folder_says_so(app_of, models, picture):
    shared = Shared(ThreadPoolExecutor(1), ThreadPoolExecutor(1), 10_000, GoldenCache(0))
    model = ServedModel(name="pcb", version="v", inspector=models["pcb"].inspector, shared=shared)
    client = TestClient(app_of(model))
    for response in (put(client, picture()), inspect(client, picture()), client.delete(URL)):
        assert response.status_code == 404 and "goldens_dir" in response.json()["detail"]


def test_another_replica_sees_it_at_once_and_a_new_one_has_it_encoded(app_of, client, models, picture, folder):
    inspector = models["pcb"].inspector
    other = another_replica(folder, inspector)
    put(client, picture(0))
    seen = TestClient(app_of(other))
    assert inspect(seen, picture(255)).json()["score"] == 1.0
    fresh = another_replica(folder, inspector)
    warm(fresh, fresh.shared.registry)
    answer = inspect(TestClient(app_of(fresh)), picture(255)).json()
    assert answer["golden_cached"] is True and answer["score"] == 1.0


def test_a_folder_that_hangs_stops_only_those_who_ask_for_it(client, picture, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(GoldenRegistry, "get", lambda *_: go_on.wait(60) and None)
    with ThreadPoolExecutor(4) as others:
        waiting = [others.submit(inspect, client, picture()) for _ in range(4)]  # more than there are threads
        sent = client.post("/v1/models/pcb/inspect", files={"test": picture(9), "golden": picture(0)})
        assert sent.status_code == 200 and not any(each.done() for each in waiting)
        go_on.set()
        assert {each.result().status_code for each in waiting} == {404}


def test_a_damaged_golden_is_a_404_until_it_is_registered_again(client, models, picture, folder):
    put(client, picture(0))
    file_system, _ = fsspec.core.url_to_fs(folder)
    for path in files_in(folder):
        file_system.pipe_file(path, b"{}")
    assert inspect(client, picture(255)).status_code == 404
    model = models["pcb"]
    warm(model, model.shared.registry)
    assert len(model.shared.cache) == 0
    assert put(client, picture(0)).status_code == 201
    assert inspect(client, picture(255)).json()["score"] == 1.0


def meanwhile(monkeypatch, owner, name, act, *, when=lambda *_: True):
    """Let something happen once, when a function was called and before it returns."""
    function, left = getattr(owner, name), [act]

    def called(*arguments):
        found = function(*arguments) if owner is GoldenRegistry else None
        if left and when(*arguments):
            left.pop()()
        return found if owner is GoldenRegistry else function(*arguments)

    monkeypatch.setattr(owner, name, called)


def test_a_golden_that_is_replaced_while_a_request_looks_for_it_is_the_new_one(client, picture, folder, monkeypatch):
    put(client, picture(0))
    other = GoldenRegistry(folder)
    meanwhile(monkeypatch, GoldenRegistry, "get", lambda: other.put("pcb", "R1", [{"": picture(255)}]))
    assert inspect(client, picture(255)).json()["score"] == 0.0


def test_a_picture_that_another_replica_registers_while_it_is_removed_stays(client, picture, folder, monkeypatch):
    put(client, picture(0))
    other = GoldenRegistry(folder)
    meanwhile(monkeypatch, storage, "remove", lambda: other.put("pcb", "R1", [{"": picture(0)}]))
    put(client, picture(1))
    assert inspect(client, picture(255)).json()["score"] == 1.0
    assert len(files_in(folder)) == 2


def test_a_picture_that_another_replica_removes_before_its_record_is_there_comes_back(picture, folder, monkeypatch):
    one, other = GoldenRegistry(folder), GoldenRegistry(folder)
    meanwhile(
        monkeypatch,
        storage,
        "write_text",
        lambda: other.put("pcb", "R1", [{"": picture(1)}]),
        when=lambda path, _: path.endswith("record.json"),
    )
    registered, _ = one.put("pcb", "R1", [{"": picture(0)}])
    assert one.get("pcb", "R1") == registered and one.read("pcb", "R1", *registered.digests) == picture(0)


def test_whatever_several_replicas_do_at_once_the_record_names_what_is_there(picture, tmp_path):
    folder = str(tmp_path)  # fsspec's memory is not made for several threads
    pictures = [picture(level) for level in range(3)]

    def change(seed):
        draw, registry = random.Random(seed), GoldenRegistry(folder)
        for _ in range(15):
            with contextlib.suppress(HttpError):  # 503: the folder was removed while it was made
                if draw.random() < 0.2:
                    registry.forget("pcb", "R1")
                else:
                    registry.put("pcb", "R1", [{"": draw.choice(pictures)}])

    with ThreadPoolExecutor(4) as replicas:
        list(replicas.map(change, range(4)))
    registry = GoldenRegistry(folder)
    found = registry.get("pcb", "R1")
    for digest in found.digests if found else ():
        registry.read("pcb", "R1", digest)
    registry.put("pcb", "R1", [{"": pictures[0]}])
    assert len(files_in(folder)) == 2, "pictures that no record names are gone with the next one"


class ClientError(Exception):
    """What a client of an object store raises."""


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ClientError("no such host")])
def test_a_folder_that_is_away_is_a_problem(client, models, picture, monkeypatch, caplog, error):
    put(client, picture(0))

    def away(_):
        raise error

    monkeypatch.setattr(storage, "_place", away)
    monkeypatch.setattr(storage, "atomic_write", away)
    for answer in (client.get(URL), put(client, picture(0)), client.delete(URL), inspect(client, picture(9))):
        assert answer.status_code == 503 and answer.json()["type"].endswith("registry-away")
        assert int(answer.headers["retry-after"]) > 0
    board = [{"id": "a", "test": {"": "t"}, "golden_id": "R1"}, {"id": "b", "test": {"": "t"}, "golden": {"": "t"}}]
    files, data = {"t": ("t", picture(0))}, {"manifest": json.dumps(board)}
    rows = client.post("/v1/models/pcb/inspect_batch", files=files, data=data).json()["results"]
    assert [row["prediction"] for row in rows] == ["ERROR", "PASS"] and rows[0]["error"]["status"] == 503
    with caplog.at_level(logging.WARNING):
        warm(models["pcb"], models["pcb"].shared.registry)
    assert "not encoded yet" in caplog.text


def test_a_folder_that_cannot_be_made_is_a_problem(app_of, models, picture, tmp_path):
    (tmp_path / "file").write_text("")
    model = another_replica(str(tmp_path / "file" / "goldens"), models["pcb"].inspector)
    assert put(TestClient(app_of(model)), picture(0)).status_code == 503


def test_a_new_model_is_warm_though_the_cache_is_full_of_another_ones(models, picture, folder, caplog):
    inspector, registry = models["pcb"].inspector, GoldenRegistry(folder)
    for level in range(8):
        registry.put("pcb", f"R{level}", [{"": picture(level)}])
    registry.put("pcb", "R0-again", [{"": picture(0)}])
    cache = GoldenCache(8 * 4)  # a golden takes 4 bytes here
    shared = Shared(ThreadPoolExecutor(1), ThreadPoolExecutor(1), 10_000, cache, registry)
    for version in ("old", "new"):
        model = ServedModel(name="pcb", version=version, inspector=inspector, shared=shared)
        warm(model, registry)
        kept = [cache.get((model.identity, *registry.get("pcb", f"R{level}").digests)) for level in range(8)]
        assert all(kept) and not caplog.records
    registry.put("pcb", "R9", [{"": picture(9)}])
    warm(model, registry)
    assert "too small" in caplog.text


def test_the_cache_keeps_what_was_used_last_within_its_bytes():
    halves = (np.zeros(10, np.float32), np.zeros(15, np.float32))  # 100 bytes
    cache = GoldenCache(250)
    cache.put(("a",), halves)
    cache.put(("b",), halves)
    assert cache.get(("a",)) is halves
    cache.put(("c",), halves)
    assert [cache.get((name,)) is not None for name in "abc"] == [True, False, True]
    assert cache.size == 200
    cache.put(("c",), (np.zeros(100, np.float32),))
    assert cache.get(("c",)) is None and cache.size == 100, "larger than all of it"
    cache.put(("b",), halves)
    assert (len(cache), cache.size) == (2, 200)
