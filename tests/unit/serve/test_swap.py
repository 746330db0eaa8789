"""Another bundle takes over, goes back, runs in the shadow; replicas follow each other."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fastapi import Response
from fastapi.testclient import TestClient

from changenet import storage
from changenet.errors import CheckpointError, EngineError
from serve.admin import _made
from serve.app import Batches, Inspection, ModelReplica
from serve.inspector import FAILURES, ServedModel
from serve.loading import _open
from serve.model_state import ModelState, StateFiles, failure_of
from serve.settings import ModelSettings, ServiceSettings, Source
from serve.shadow import Tally
from serve.tallies import Tallies

V1 = "/v1/models/pcb"


@pytest.fixture
def replica(app_of, load, tmp_path):
    """Makes the client of one more replica."""

    def make(folder=str(tmp_path / "state"), **limits):
        model = load("pcb", Source(bundle="/good"))
        return TestClient(app_of(model, load=load, files=StateFiles(folder), **limits))

    return make


def slot_of(client):
    return client.app.state.service.keeper.slots["pcb"]


def engine_threads():
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("engine-"))


def follow(client):
    keeper = client.app.state.service.keeper
    asyncio.run(keeper.look(keeper.slots["pcb"]))


def inspect(client, picture, **texts):
    return client.post(f"{V1}/inspect", files={"test": picture(80), "golden": picture(0)}, data=texts).json()


def listed(client):
    (model,) = client.get("/v1/models").json()["models"]
    return model


def test_another_bundle_takes_over_and_goes_back(replica, picture):
    client = replica()
    assert inspect(client, picture)["prediction"] == "PASS"
    answer = client.post(f"{V1}/swap", json={"bundle": "/strict"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["version"], answer.json()["previous"]) == ("strict", "good")
    assert (inspect(client, picture)["prediction"], inspect(client, picture)["version"]) == ("FAIL", "strict")
    assert client.post(f"{V1}/rollback").json()["version"] == "good"
    assert inspect(client, picture)["prediction"] == "PASS"
    assert client.post(f"{V1}/rollback").json()["version"] == "strict"


def test_what_drifted_goes_with_its_version(replica, monkeypatch):
    gone = []
    monkeypatch.setattr("serve.metrics.Metrics.retired", lambda _, *names: gone.append(names))
    client = replica()
    for bundle in ("/strict", "/strict", "/good"):
        client.post(f"{V1}/swap", json={"bundle": bundle})
    assert gone == [("pcb", "good"), ("pcb", "strict")]


def test_the_same_bundle_twice_leaves_the_one_before_to_go_back_to(replica):
    client = replica()
    for _ in range(2):
        assert client.post(f"{V1}/swap", json={"bundle": "/strict"}).json()["previous"] == "good"
    assert client.post(f"{V1}/rollback").json()["version"] == "good"


def test_a_bundle_that_does_not_load_changes_nothing_and_is_seen(replica, picture):
    client, other = replica(), replica()
    refused = client.post(f"{V1}/swap", json={"bundle": "/broken"})
    assert refused.status_code == 422 and "/broken" in refused.json()["detail"]
    follow(other)
    for each in (client, other):
        assert listed(each)["version"] == "good" and listed(each)["failure"]["bundle"] == "/broken"
        assert inspect(each, picture)["version"] == "good"
    assert client.post(f"{V1}/swap", json={"bundle": "/strict"}).status_code == 200
    assert listed(client)["failure"] is None
    assert client.post(f"{V1}/swap", json={"bundle": "/good", "version": "other"}).status_code == 422


def test_every_replica_follows_and_a_new_one_starts_with_it(replica, load, picture, tmp_path):
    client, other = replica(), replica()
    client.post(f"{V1}/swap", json={"bundle": "/strict"})
    assert inspect(other, picture)["version"] == "good"
    follow(other)
    assert inspect(other, picture)["version"] == "strict"
    loaded = len(load.loaded)
    follow(other)
    assert len(load.loaded) == loaded, "nothing is loaded twice"
    other.post(f"{V1}/rollback")
    follow(client)
    assert inspect(client, picture)["version"] == "good"
    files = StateFiles(str(tmp_path / "state"))
    configured = (ModelSettings(name="pcb", bundle="/good"),)
    assert _open("pcb", configured, load, files).active.version == "good"
    renewed = (ModelSettings(name="pcb", bundle="/strict"),)
    assert _open("pcb", renewed, load, files).active.version == "strict", "what is configured anew wins"


def test_a_replica_that_has_not_followed_yet_rolls_back_what_another_one_swapped(replica):
    client, other = replica(), replica()
    client.post(f"{V1}/swap", json={"bundle": "/strict"})
    rolled = other.post(f"{V1}/rollback").json()
    assert (rolled["version"], rolled["previous"]) == ("good", "strict")


def test_a_replica_that_cannot_follow_says_so_and_goes_on(replica, load, picture):
    client, other = replica(), replica()
    client.post(f"{V1}/swap", json={"bundle": "/strict"})
    slot, keeper = slot_of(other), other.app.state.service.keeper
    gauge = []
    slot.active.shared = replace(
        slot.active.shared, metrics=SimpleNamespace(behind=lambda _, is_behind: gauge.append(is_behind))
    )
    keeper._load_now = lambda name, _: load(name, Source(bundle="/gone"))
    follow(other)
    slot.active.shared = load.shared
    assert gauge == [True]
    assert inspect(other, picture)["version"] == "good" and "/gone" in listed(other)["behind"]
    keeper._load_now = load
    follow(other)
    assert inspect(other, picture)["version"] == "good", "not tried again at once"
    slot.retry_at = 0.0
    follow(other)
    assert inspect(other, picture)["version"] == "strict" and listed(other)["behind"] is None


def test_a_start_whose_bundle_is_gone_goes_back_to_the_one_before(replica, load, tmp_path):
    client = replica()
    client.post(f"{V1}/swap", json={"bundle": "/strict"})
    files = StateFiles(str(tmp_path / "state"))
    state = files.read("pcb")
    files.write("pcb", state.changed(active=Source(bundle="/gone")))
    slot = _open("pcb", state.configured, load, files)
    assert slot.active.version == "good" and "/gone" in slot.behind
    with pytest.raises(CheckpointError, match="no such folder"):
        _open("pcb", (ModelSettings(name="pcb", bundle="/gone"),), load, None)


def test_a_damaged_file_changes_nothing_until_the_next_change_replaces_it(replica, picture, tmp_path):
    client, other = replica(), replica()
    client.post(f"{V1}/swap", json={"bundle": "/strict"})
    (file,) = tmp_path.rglob("pcb.model.json")
    file.write_text("{")
    follow(other)
    assert inspect(other, picture)["version"] == "good" and "damaged" in listed(other)["behind"]
    assert other.post(f"{V1}/swap", json={"bundle": "/strict"}).status_code == 200
    assert listed(other)["behind"] is None


def test_a_bundle_that_refuses_what_clients_send_takes_over_by_force_only(
    replica, load, inspector_of, shared, monkeypatch
):
    client = replica()
    others = {"lights": inspector_of(("Solder", "White")), "goldens": inspector_of(num_golden=3)}

    def load_other(name, source):
        version = source.bundle.strip("/")
        if version not in others:
            return load(name, source)
        return ServedModel(name=name, version=version, inspector=others[version], shared=shared)

    monkeypatch.setattr(client.app.state.service.keeper, "_load_now", load_other)
    refused = client.post(f"{V1}/swap", json={"bundle": "/lights"})
    assert refused.status_code == 422 and "'Solder', 'White'" in refused.json()["detail"]
    assert listed(client)["version"] == "good" and "force" in listed(client)["failure"]["reason"]
    assert client.post(f"{V1}/swap", json={"bundle": "/goldens"}).json()["version"] == "goldens", "takes more"
    assert client.post(f"{V1}/swap", json={"bundle": "/good"}).status_code == 422, "takes fewer goldens"
    assert client.post(f"{V1}/swap", json={"bundle": "/lights", "force": True}).json()["version"] == "lights"
    assert client.post(f"{V1}/rollback").json()["version"] == "goldens", "what was chosen before needs no force"


def test_nothing_to_go_back_to_and_no_place_for_changes(replica, client, models):
    assert replica().post(f"{V1}/rollback").status_code == 404
    refused = client.post(f"{V1}/swap", json={"bundle": "/good"})
    assert refused.status_code == 404 and "goldens_dir" in refused.json()["detail"]


@pytest.mark.parametrize("bundle", ["http://192.0.2.1/x", "s3://elsewhere/bundle", "file:///x"])
def test_bundles_come_from_configured_places_only(replica, bundle):
    client = replica()
    for refused in (
        client.post(f"{V1}/swap", json={"bundle": bundle}),
        client.put(f"{V1}/shadow", json={"bundle": bundle}),
    ):
        assert refused.status_code == 422 and refused.json()["type"].endswith("bundle-refused")


def test_requests_under_way_end_with_the_model_they_began_with(replica):
    client = replica()
    old = slot_of(client).active
    client.post(f"{V1}/swap", json={"bundle": "/strict"})
    assert slot_of(client).active is not old
    assert asyncio.run(old.queue.run(lambda: "alive")) == "alive"


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_shadow_sees_its_share_and_nobody_sees_it(replica, picture, tmp_path, place):
    folder = f"memory://{tmp_path.name}/state" if place == "memory" else str(tmp_path / "state")
    with replica(folder) as client:
        assert client.get(f"{V1}/shadow").status_code == 404
        assert client.put(f"{V1}/shadow", json={"bundle": "/strict"}).json()["shadow"] == "strict"
        inspect(client, picture, threshold="0.3")  # says nothing about either model's own
        assert {inspect(client, picture)["version"] for _ in range(5)} == {"good"}
        until = time.monotonic() + 60
        while (report := client.get(f"{V1}/shadow").json())["pairs"] < 5:
            assert time.monotonic() < until, report
            time.sleep(0.02)
        assert (report["agreement"], report["only_candidate_fails"], report["mean_difference"]) == (0.0, 5, 0.0)
        assert (report["active"], report["candidate"], report["drift"]) == ("good", "strict", 0.0)
        other = replica(folder)
        follow(other)
        while other.get(f"{V1}/shadow").json()["pairs"] < 5:  # what the first replica saw
            assert time.monotonic() < until
            time.sleep(0.02)
        client.put(f"{V1}/shadow", json={"bundle": "/strict"})
        follow(other)
        for each in (client, other):
            assert each.get(f"{V1}/shadow").json()["pairs"] == 0, "put there again it begins anew"
        client.post(f"{V1}/swap", json={"bundle": "/strict"})
        assert client.get(f"{V1}/shadow").json()["pairs"] == 0, "beside another model it begins anew"
        assert client.delete(f"{V1}/shadow").status_code == 204
        assert client.get(f"{V1}/shadow").status_code == 404
        follow(other)
        assert other.get(f"{V1}/shadow").status_code == 404
        assert client.put(f"{V1}/shadow", json={"bundle": "/broken"}).status_code == 422


def until(seen, *, seconds=60):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_changes_at_once_on_two_replicas_are_both_made_in_both(replica, load):
    release = load.hold("/strict")
    with replica() as one, replica() as other, ThreadPoolExecutor(1) as thread:
        swap = thread.submit(one.post, f"{V1}/swap", json={"bundle": "/strict"})
        until(lambda: listed(one)["trying"] == "/strict")
        assert other.put(f"{V1}/shadow", json={"bundle": "/good"}).status_code == 200
        release.set()
        assert swap.result().status_code == 200
        for each in (one, other):
            until(lambda each=each: (listed(each)["version"], listed(each)["shadow"]) == ("strict", "good"))
        assert listed(one) == listed(other)


def test_of_two_changes_written_at_the_same_moment_the_last_one_counts_everywhere(replica, tmp_path):
    files = StateFiles(str(tmp_path / "state"))
    one, other = replica(), replica()
    read = files.read("pcb") or slot_of(one).state  # both read it before either writes
    assert one.post(f"{V1}/swap", json={"bundle": "/strict"}).status_code == 200
    files.write("pcb", read.changed(failure=failure_of("/broken", "no such folder")))
    for each in (one, other):
        follow(each)
        assert (listed(each)["version"], listed(each)["failure"]["bundle"]) == ("good", "/broken")


def test_a_rollback_that_another_change_overtook_is_refused(replica, load):
    one, other = replica(), replica()
    one.post(f"{V1}/swap", json={"bundle": "/strict"})
    release = load.hold("/good")
    with ThreadPoolExecutor(1) as thread:
        rollback = thread.submit(one.post, f"{V1}/rollback")
        until(lambda: listed(one)["trying"] == "/good")
        assert other.post(f"{V1}/swap", json={"bundle": "/strict", "engine": "torch"}).status_code == 200
        release.set()
        assert rollback.result().status_code == 409
    assert listed(one)["version"] == "strict"


def test_a_shadow_that_cannot_be_loaded_holds_nothing_up(replica, load):
    one, other = replica(), replica()
    one.put(f"{V1}/shadow", json={"bundle": "/strict", "traffic": 0.5})
    load.gone.add("/strict")
    follow(other)
    assert listed(other)["shadow"] is None and "No shadow: /strict" in listed(other)["behind"]
    threads = engine_threads()
    answer = other.post(f"{V1}/swap", json={"bundle": "/good", "engine": "torch"})
    assert answer.status_code == 200 and "No shadow" in answer.json()["behind"]
    loaded = len(load.loaded)
    for _ in range(3):
        slot_of(other).retry_at = 0.0
        follow(other)
    assert (len(load.loaded), engine_threads()) == (loaded, threads), "what answers is not loaded again"
    load.gone.clear()
    slot_of(other).retry_at = 0.0
    follow(other)
    assert (listed(other)["shadow"], listed(other)["behind"]) == ("strict", None)


def test_a_change_outlives_its_client_and_its_request(replica, load):
    release = load.hold("/strict")
    with replica(request_seconds=0.2) as client:
        answer = client.post(f"{V1}/swap", json={"bundle": "/strict"})
        assert answer.status_code == 202
        assert (answer.json()["version"], answer.json()["trying"]) == ("good", "/strict")
        assert client.delete(f"{V1}/shadow").status_code == 202, "one after the other"
        release.set()
        until(lambda: listed(client)["version"] == "strict" and listed(client)["trying"] is None)
        load.hold("/broken").clear()
        assert client.post(f"{V1}/swap", json={"bundle": "/broken"}).status_code == 202
        load.hold("/broken").set()
        until(lambda: listed(client)["failure"])


def test_a_request_that_is_cancelled_does_not_cancel_its_change(replica, load):
    release = load.hold("/strict")
    client = replica()
    keeper, slot = client.app.state.service.keeper, slot_of(client)

    async def run():
        change = keeper.swap(slot, Source(bundle="/strict"))
        request = asyncio.create_task(_made(change, slot, client.app.state.service, Response()))
        while not slot.trying:
            await asyncio.sleep(0.01)
        request.cancel()
        release.set()
        await change

    asyncio.run(run())
    assert slot.active.version == "strict"


def test_a_folder_that_is_away_is_a_problem_and_nothing_changes(replica, picture, tmp_path):
    client = replica()
    (tmp_path / "state").write_text("a file where the folder should be")
    threads = engine_threads()
    for _ in range(3):
        answer = client.post(f"{V1}/swap", json={"bundle": "/strict"})
        assert answer.status_code == 503 and answer.json()["type"].endswith("registry-away")
        assert int(answer.headers["retry-after"]) > 0
    assert client.post(f"{V1}/swap", json={"bundle": "/broken"}).status_code == 422
    assert engine_threads() == threads
    assert inspect(client, picture)["version"] == "good" and listed(client)["failure"]["bundle"] == "/broken"
    (tmp_path / "state").unlink()
    assert client.post(f"{V1}/swap", json={"bundle": "/strict"}).status_code == 200


def test_models_that_were_replaced_end(replica, picture):
    with replica() as client:
        client.app.state.service.keeper._close_after = 0.0
        inspect(client, picture)
        thread = slot_of(client).active.queue._thread
        client.post(f"{V1}/swap", json={"bundle": "/strict"})
        thread.join(60)
        assert not thread.is_alive()


def test_a_shadow_that_goes_while_its_report_is_made_is_no_crash(replica, load, monkeypatch):
    client = replica()
    client.put(f"{V1}/shadow", json={"bundle": "/strict"})
    slot, read = slot_of(client), Tallies.read

    def removed_meanwhile(tallies, model, compared):
        slot.shadow = None
        return read(tallies, model, compared)

    monkeypatch.setattr(Tallies, "read", removed_meanwhile)
    assert client.get(f"{V1}/shadow").json()["candidate"] == "strict"
    assert client.get(f"{V1}/shadow").status_code == 404


def test_what_was_counted_goes_with_the_shadow(replica, picture, tmp_path):
    one, other = replica(), replica()
    one.put(f"{V1}/shadow", json={"bundle": "/strict"})
    follow(other)
    for each in (one, other):
        slot_of(each).shadow.unsaved = True
        follow(each)
    assert len(list(tmp_path.rglob("pcb.shadow/*/*.json"))) == 2
    one.delete(f"{V1}/shadow")
    slot_of(other).shadow.unsaved = True  # it has not heard yet
    follow(other)
    assert list(tmp_path.rglob("pcb.shadow/*")) == []


def test_what_was_counted_may_go_while_it_is_read(tmp_path, monkeypatch):
    tallies, names = Tallies(str(tmp_path)), storage.names_inside
    tallies.write("pcb", "both", Tally(pairs=1))
    monkeypatch.setattr(storage, "names_inside", lambda folder: [*names(folder), "gone.json"])
    assert list(tallies.read("pcb", "both").values()) == [Tally(pairs=1)]


def test_a_file_of_another_configuration_is_not_followed(load, keeper_of, tmp_path):
    files = StateFiles(str(tmp_path))
    old = (ModelSettings(name="pcb", bundle="/good"), ModelSettings(name="pcb", bundle="/good", traffic=0.5))
    state = ModelState(configured=old, active=Source(bundle="/strict"))
    files.write("pcb", state.changed())
    keeper = keeper_of(load("pcb", Source(bundle="/good")), load=load, files=files)
    asyncio.run(keeper.look(keeper.slots["pcb"]))
    assert keeper.slots["pcb"].active.version == "good"


def test_a_file_of_a_newer_version_is_refused_and_kept_and_one_of_the_first_is_read(replica, tmp_path):
    client = replica()
    client.post(f"{V1}/swap", json={"bundle": "/strict"})
    (file,) = tmp_path.rglob("pcb.model.json")
    newer = json.loads(file.read_text()) | {"format_version": 3, "unknown": 1}
    file.write_text(json.dumps(newer))
    follow(client)
    assert "newer version" in listed(client)["behind"]
    answer = client.post(f"{V1}/rollback")
    assert answer.status_code == 409 and json.loads(file.read_text()) == newer
    first = {name: value for name, value in newer.items() if name != "unknown"} | {"format_version": 1, "generation": 7}
    file.write_text(json.dumps(first))
    assert client.post(f"{V1}/rollback").json()["version"] == "good"


@pytest.mark.parametrize(
    "traffic",
    [[0.5], [1.0, 1.0], [1.0, 0.5, 0.5]],
)
def test_a_name_has_one_bundle_that_answers(traffic):
    models = [{"name": "pcb", "bundle": "b", "traffic": share} for share in traffic]
    with pytest.raises(ValueError, match=r"twice|shadow"):
        ServiceSettings(models=models)


def test_a_shadow_of_the_configuration_is_loaded(load):
    configured = (ModelSettings(name="pcb", bundle="/good"), ModelSettings(name="pcb", bundle="/strict", traffic=0.2))
    slot = _open("pcb", configured, load, None)
    assert slot.shadow.wanted.traffic == 0.2 and slot.shadow.candidate.version == "strict"


def test_new_settings_of_batches_reach_models_that_are_loaded_later_and_wrong_ones_none(replica, caplog):
    client = replica()
    settings = ServiceSettings(models=[{"name": "pcb", "bundle": "/good"}])
    keeper = client.app.state.service.keeper
    starting, running = (SimpleNamespace(_batches=Batches(settings, keeper)) for _ in range(2))
    Inspection.reconfigure(running, {"max_batch_size": 3, "batch_wait_timeout_s": 0.5})
    assert slot_of(client).active.queue.settings.max_batch_size == 3
    client.post(f"{V1}/swap", json={"bundle": "/strict"})
    assert slot_of(client).active.queue.settings.max_batch_size == 3
    with pytest.raises(ValueError, match="no batch could fill"):
        Inspection.reconfigure(starting, {"max_batch_size": 65})
    for wrong in {"max_batch_size": 65}, {"max_batch": 2}:  # Ray Serve stops a replica that raises while it runs
        Inspection.reconfigure(running, wrong)
        assert slot_of(client).active.queue.settings.max_batch_size == 3
        assert "batches stay as they are" in caplog.text
        caplog.clear()


def test_a_replica_of_one_model_follows_the_others_and_takes_settings_of_batches(replica):
    client, other = replica(), replica()
    client.post(f"{V1}/swap", json={"bundle": "/strict"})
    settings = ServiceSettings(models=[{"name": "pcb", "bundle": "/good"}])
    keeper = other.app.state.service.keeper
    running = SimpleNamespace(_batches=Batches(settings, keeper), _keeper=keeper, _following=None)

    async def begin():
        await ModelReplica.reconfigure(running, {"max_batch_size": 3})
        first = running._following
        await ModelReplica.reconfigure(running, {"max_batch_size": 4})
        assert running._following is first
        until = time.monotonic() + 60
        while slot_of(other).active.version != "strict":
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
        first.cancel()

    asyncio.run(begin())
    assert slot_of(other).active.queue.settings.max_batch_size == 4


@pytest.mark.parametrize("kind", [Inspection, ModelReplica])
def test_a_replica_is_ill_while_an_engine_fails_again_and_again(replica, picture, kind):
    client = replica()
    running = SimpleNamespace(_keeper=client.app.state.service.keeper)
    kind.check_health(running)
    slot_of(client).active.inspector.engine.encode = lambda *_: 1 / 0
    for _ in range(FAILURES):
        assert "prediction" not in inspect(client, picture)
    with pytest.raises(EngineError, match="pcb"):
        kind.check_health(running)
