from __future__ import annotations

import logging
from typing import Any

import pytest

from changenet.spec.workers import RayWorkers
from ray_jobs.workers import Workers, plan_workers


@pytest.mark.parametrize(
    ("asked", "gpus", "expected"),
    [
        ({}, 0, Workers((1, 1), 8)),
        ({}, 4, Workers((2, 2), 4, use_gpu=True)),
        ({"use_gpu": True}, 0, Workers((1, 1), 8)),
        ({"use_gpu": False}, 4, Workers((1, 1), 8)),
        ({"num_workers": 3}, 0, Workers((3, 3), 2)),
        ({"num_workers": [1, 4]}, 0, Workers((1, 4), 2)),
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
