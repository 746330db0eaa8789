"""Goldens, changes and tallies behind `s3://`, where clients of the store like to remember what they saw."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from serve.golden_registry import GoldenRegistry
from serve.model_state import ModelState, StateFiles
from serve.settings import ModelSettings, Source
from serve.shadow import Tally
from serve.tallies import Tallies

pytestmark = pytest.mark.slow


@pytest.fixture
def replicas(bucket):
    """This process and another one, as within one all share the client that remembers."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        yield lambda function, *given: function(*given), lambda *call: other.submit(*call).result()


def test_two_replicas_see_each_others_goldens(bucket, replicas, picture):
    one, other = replicas
    registries = [GoldenRegistry(f"{bucket}/goldens") for _ in replicas]
    assert one(registries[0].ids, "pcb") == other(registries[1].ids, "pcb") == []
    for level in (0, 1):  # replaced, too
        registered, _ = one(registries[0].put, "pcb", "R1", [{"": picture(level)}])
        assert other(registries[1].ids, "pcb") == ["R1"]
        assert other(registries[1].get, "pcb", "R1") == registered
        assert other(registries[1].read, "pcb", "R1", *registered.digests) == picture(level)
    one(registries[0].put, "pcb", "R2", [{"": picture(2)}])
    assert other(registries[1].ids, "pcb") == ["R1", "R2"]
    assert other(registries[1].forget, "pcb", "R1") is True
    assert one(registries[0].get, "pcb", "R1") is None and one(registries[0].ids, "pcb") == ["R2"]


def test_two_replicas_see_each_others_changes_and_tallies(bucket, replicas):
    one, other = replicas
    files = [StateFiles(f"{bucket}/goldens") for _ in replicas]
    state = ModelState(configured=(ModelSettings(name="pcb", bundle="b"),), active=Source(bundle="b"))
    for _ in range(2):
        state = state.changed()
        one(files[0].write, "pcb", state)
        assert other(files[1].read, "pcb") == state
    tallies = [Tallies(f"{bucket}/goldens") for _ in replicas]
    for pairs in (1, 22, 333):
        one(tallies[0].write, "pcb", "both", Tally(pairs=pairs))
        assert list(other(tallies[1].read, "pcb", "both").values()) == [Tally(pairs=pairs)]
    other(tallies[1].remove, "pcb", "both")
    assert one(tallies[0].read, "pcb", "both") == {}
