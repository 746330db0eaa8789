from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from changenet.errors import SpecError
from changenet.spec.workers import RayWorkers
from ray_jobs.workers import Workers, plan_trials, plan_workers


def _have(
    monkeypatch: pytest.MonkeyPatch, *nodes: tuple[float, float], later: Sequence[tuple[float, float]] = ()
) -> list[list[Mapping[str, float]]]:
    """Lets the cluster have nodes of (CPUs, GPUs), and others after it was asked to grow; returns what it was asked for."""
    there, asked = [*nodes], []

    def wait_for(bundles: list[Mapping[str, float]], *, patience: float = 0) -> bool:
        asked.append(bundles)
        there.extend(later)
        return bool(later)

    def room_for(bundle: Mapping[str, float]) -> int:
        each = bundle["CPU"], bundle.get("GPU", 0)
        return sum(
            min(int(have / need + 1e-6) for have, need in zip(node, each, strict=True) if need) for node in there
        )

    monkeypatch.setattr("ray_jobs.cluster.nodes", lambda: there)
    monkeypatch.setattr("ray_jobs.cluster.room_for", room_for)
    monkeypatch.setattr("ray_jobs.cluster.is_own", lambda: False)
    monkeypatch.setattr("ray_jobs.growth.wait_for", wait_for)
    return asked


@pytest.mark.parametrize(
    ("asked", "gpus", "expected"),
    [
        ({}, 0, Workers((1, 1), 8)),
        ({}, 4, Workers((2, 2), 4, use_gpu=True)),
        ({"use_gpu": True}, 0, Workers((1, 1), 8)),
        ({"use_gpu": False}, 4, Workers((1, 1), 8)),
        ({"num_workers": 3}, 0, Workers((3, 3), 2)),
        ({"num_workers": [1, 4]}, 0, Workers((1, 4), 2)),
        ({"num_workers": [1, 16]}, 0, Workers((1, 16), 1)),  # eight now, more when the cluster grows
        ({"num_workers": 20}, 0, Workers((20, 20), 0.4)),
        (
            {"num_workers": 2, "resources_per_worker": {"CPU": 3, "camera": 1}},
            0,
            Workers((2, 2), 3, False, {"camera": 1}),
        ),
    ],
)
def test_workers_share_the_cpus_of_the_cluster(
    asked: dict[str, Any], gpus: int, expected: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    _have(monkeypatch, (8, gpus))
    assert plan_workers(RayWorkers.model_validate(asked), asked_gpus=2) == expected


def test_gpus_that_are_not_there_are_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _have(monkeypatch, (8, 0))
    with caplog.at_level(logging.WARNING):
        assert not plan_workers(RayWorkers(), asked_gpus=2).use_gpu
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"num_workers": 7}, r"7 worker\(s\) with {CPU: 2, GPU: 1} each do not fit the cluster, which has room for 1"),
        (
            {"num_workers": 3, "use_gpu": False, "resources_per_worker": {"CPU": 5}},
            "has room for 2",
        ),  # 16 CPUs, 8 a node
        ({"num_workers": [3, 9], "use_gpu": False, "resources_per_worker": {"CPU": 5}}, r"3 worker\(s\) with"),
    ],
)
def test_workers_that_never_fit_are_refused(asked: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = _have(monkeypatch, (8, 1), (8, 0))
    with pytest.raises(SpecError, match=named):
        plan_workers(RayWorkers.model_validate(asked), asked_gpus=1)
    assert requests, "nothing grows this cluster, but it was asked"


def test_workers_that_need_not_start_together_begin_with_what_fits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests = _have(monkeypatch, (8, 0))
    section = RayWorkers(num_workers=2, resources_per_worker={"CPU": 5})
    with caplog.at_level(logging.WARNING):
        assert plan_workers(section, asked_gpus=1, together=False).count == (2, 2)
    assert "there is room for 1" in caplog.text
    assert not requests
    with pytest.raises(SpecError, match="room for 0"):
        plan_workers(RayWorkers(resources_per_worker={"CPU": 9}), asked_gpus=1, together=False)


def test_workers_that_fit_a_cluster_that_grows_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = _have(monkeypatch, (2, 0), later=[(2, 0)])
    section = RayWorkers(num_workers=2, resources_per_worker={"CPU": 2})
    assert plan_workers(section, asked_gpus=1).count == (2, 2)
    assert requests == [[{"CPU": 2}] * 2]


@pytest.mark.parametrize(
    ("asked", "gpus", "limit", "expected"),
    [
        ({}, 0, None, (2.0, 8)),  # four a node
        ({}, 0, 2, (8.0, 2)),
        ({}, 0, 1, (8.0, 1)),  # a worker fits a node
        ({"num_workers": 4}, 0, None, (1.0, 4)),
        ({"num_workers": 32}, 0, None, (0.5, 1)),
        ({"resources_per_worker": {"CPU": 3}}, 0, None, (3.0, 4)),  # two a node
        ({"resources_per_worker": {"CPU": 3}}, 0, 9, (3.0, 9)),  # the rest waits until the cluster grows
        ({}, 4, None, (4.0, 4)),
        ({"num_workers": 2}, 4, None, (4.0, 2)),
    ],
)
def test_trials_at_once_are_what_the_cluster_carries(
    asked: dict[str, Any], gpus: int, limit: int | None, expected: tuple[float, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _have(monkeypatch, (8, gpus / 2), (8, gpus / 2))
    workers, at_once = plan_trials(RayWorkers.model_validate(asked), asked_gpus=1, trials=20, limit=limit)
    assert (workers.cpus, at_once) == expected


@pytest.mark.parametrize(
    ("asked", "nodes", "cpus"),
    [
        ({}, [(8, 0), (4, 0)], 8.0),
        ({"num_workers": 2}, [(8, 0), (4, 0)], 4.0),
        ({"num_workers": 5}, [(8, 0), (4, 0)], 2.0),
        ({"num_workers": 2}, [(16, 0), (4, 1), (4, 1)], 4.0),  # workers go where the GPUs are
        ({"num_workers": 2}, [(0, 0), (8, 0)], 4.0),  # a head without work
        ({"num_workers": 4}, [(0, 0)], 1.0),  # and no other node yet
        ({"num_workers": [1, 4]}, [(0, 0)], 1.0),
    ],
)
def test_a_share_of_cpus_is_found_on_one_node(
    asked: dict[str, Any], nodes: list[tuple[float, float]], cpus: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    _have(monkeypatch, *nodes, later=[(4, 0)])
    assert plan_workers(RayWorkers.model_validate(asked), asked_gpus=1).cpus == cpus


def test_a_sweep_on_a_cluster_without_cpus_yet_takes_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, at_once in ((None, 1), (3, 3)):
        _have(monkeypatch, (0, 0), later=[(1, 0)])
        workers, found = plan_trials(RayWorkers(), asked_gpus=1, trials=9, limit=limit)
        assert (workers.cpus, found) == (1.0, at_once)


@pytest.mark.parametrize(
    ("asked", "count"),
    [({}, 3), ({"num_workers": 2}, 2), ({"num_workers": [1, 2], "resources_per_worker": {"GPU": 1, "camera": 1}}, 1)],
)
def test_gpus_that_are_asked_for_outright_are_waited_for(
    asked: dict[str, Any], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = _have(monkeypatch, (0, 0), later=[(4, 1)] * 3)
    workers = plan_workers(RayWorkers.model_validate({"use_gpu": True, **asked}), asked_gpus=3)
    assert workers.use_gpu
    assert workers.cpus == 4
    extra = {"camera": 1} if "resources_per_worker" in asked else {}
    assert requests == [[{**extra, "GPU": 1}] * count]


@pytest.mark.parametrize("use_gpu", [None, False])
def test_nobody_waits_for_gpus_that_were_not_asked_for(use_gpu: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = _have(monkeypatch, (8, 0), later=[(4, 1)])
    assert not plan_workers(RayWorkers(use_gpu=use_gpu), asked_gpus=2).use_gpu
    assert not requests
