from __future__ import annotations

import logging
from typing import Any

import pytest

from changenet.spec.workers import RayWorkers
from ray_jobs.workers import Workers, plan_trials, plan_workers


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
    monkeypatch.setattr("ray_jobs.cluster.cluster_resources", lambda: (8.0, float(gpus)))
    assert plan_workers(RayWorkers.model_validate(asked), asked_gpus=2) == expected


def test_gpus_that_are_not_there_are_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ray_jobs.cluster.cluster_resources", lambda: (8.0, 0.0))
    with caplog.at_level(logging.WARNING):
        assert not plan_workers(RayWorkers(), asked_gpus=2).use_gpu
    assert len(caplog.records) == 1


def test_workers_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("ray_jobs.cluster.cluster_resources", lambda: (8.0, 1.0))
    with caplog.at_level(logging.WARNING):
        assert plan_workers(RayWorkers(num_workers=7), asked_gpus=1).threads == 1
    assert [record.getMessage()[:29] for record in caplog.records] == ["7 worker(s) need 7 GPUs and t"]
    assert 3 * plan_workers(RayWorkers(num_workers=3, use_gpu=False), asked_gpus=1).cpus <= 8


@pytest.mark.parametrize(
    ("asked", "gpus", "limit", "expected"),
    [
        ({}, 0, None, (2.0, 8)),  # four a node
        ({}, 0, 2, (8.0, 2)),
        ({}, 0, 1, (8.0, 1)),  # a worker fits a node
        ({"num_workers": 4}, 0, None, (1.0, 4)),
        ({"num_workers": 32}, 0, None, (0.5, 1)),
        ({"resources_per_worker": {"CPU": 3}}, 0, None, (3.0, 5)),
        ({"resources_per_worker": {"CPU": 3}}, 0, 9, (3.0, 9)),  # the rest waits until the cluster grows
        ({}, 4, None, (4.0, 4)),
        ({"num_workers": 2}, 4, None, (4.0, 2)),
    ],
)
def test_trials_at_once_are_what_the_cluster_carries(
    asked: dict[str, Any], gpus: int, limit: int | None, expected: tuple[float, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_jobs.cluster.cluster_resources", lambda: (16.0, float(gpus)))
    monkeypatch.setattr("ray_jobs.cluster.node_cpus", lambda: [8.0, 8.0])
    workers, at_once = plan_trials(RayWorkers.model_validate(asked), asked_gpus=1, trials=20, limit=limit)
    assert (workers.cpus, at_once) == expected
