"""Goldens: registered, forgotten, shared between replicas, encoded once."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.testclient import TestClient

from serve.golden_cache import GoldenCache
from serve.golden_registry import GoldenRegistry
from serve.inspector import ServedModel, Shared
from serve.loading import warm

URL = "/v1/models/pcb/goldens/R1"


def inspect(client, test, golden_id="R1", model="pcb"):
    return client.post(f"/v1/models/{model}/inspect", files={"test": test}, data={"golden_id": golden_id})


def put(client, *pictures, url=URL):
    return client.put(url, files=[("golden", content) for content in pictures])


def another_replica(folder, inspector):
    shared = Shared(ThreadPoolExecutor(1), 10_000, GoldenCache(1 << 20), GoldenRegistry(folder))
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


def test_nothing_of_a_forgotten_or_replaced_golden_stays_on_the_disk(client, picture, tmp_path):
    put(client, picture(0))
    put(client, picture(1))
    assert len(list(tmp_path.rglob("R1.golden/*"))) == 2, "a record and one picture"
    client.delete(URL)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("content", "status"), [(b"<html>", 415), (b"\x89PNG broken", 400)])
def test_only_pictures_are_registered(client, content, status):
    assert put(client, content).status_code == status
    assert client.get(URL).status_code == 404


@pytest.mark.parametrize("golden_id", ["..", ".", "a" * 128])
def test_every_allowed_id_stays_in_its_folder(models, picture, tmp_path, golden_id):
    registry = models["pcb"].shared.registry
    registry.put("pcb", golden_id, [{"": picture(3)}])
    (record,) = tmp_path.rglob("record.json")
    assert record.parent.parent == tmp_path / "goldens" / "pcb.goldens"
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
    shared = Shared(ThreadPoolExecutor(1), 10_000, GoldenCache(0))
    model = ServedModel(name="pcb", version="v", inspector=models["pcb"].inspector, shared=shared)
    client = TestClient(app_of(model))
    for response in (put(client, picture()), inspect(client, picture()), client.delete(URL)):
        assert response.status_code == 404 and "goldens_dir" in response.json()["detail"]


def test_another_replica_sees_it_at_once_and_a_new_one_has_it_encoded(app_of, client, models, picture, tmp_path):
    folder, inspector = str(tmp_path / "goldens"), models["pcb"].inspector
    other = another_replica(folder, inspector)
    put(client, picture(0))
    seen = TestClient(app_of(other))
    assert inspect(seen, picture(255)).json()["score"] == 1.0
    fresh = another_replica(folder, inspector)
    warm(fresh, fresh.shared.registry)
    answer = inspect(TestClient(app_of(fresh)), picture(255)).json()
    assert answer["golden_cached"] is True and answer["score"] == 1.0


def test_a_damaged_golden_is_a_404_until_it_is_registered_again(client, models, picture, tmp_path):
    put(client, picture(0))
    for path in tmp_path.rglob("R1.golden/*"):
        path.write_bytes(b"{}")
    assert inspect(client, picture(255)).status_code == 404
    model = models["pcb"]
    warm(model, model.shared.registry)
    assert len(model.shared.cache) == 0
    assert put(client, picture(0)).status_code == 201
    assert inspect(client, picture(255)).json()["score"] == 1.0


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
