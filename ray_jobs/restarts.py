"""What a user hears when workers of a training run fail: why, before Ray Train starts them again."""

from __future__ import annotations

import logging
from typing import Any

import ray.train

from ray_jobs.failures import cluster_failure, ours


class Restarts(ray.train.UserCallback):
    """Tells the run's monitor the reason. Runs in Ray Train's controller.

    Args:
        monitor: The run's monitor (`ray_jobs.run_monitor`).
    """

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor
        self._times = 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Tell the first reason that is the cluster's; what is ours, the driver tells."""
        errors = list(worker_exceptions.values())
        if any(map(ours, errors)):
            return
        self._monitor.show.remote("Starting workers", 0, None)
        told = next((problem for problem in map(cluster_failure, errors) if problem), None)
        if told is not None:
            self._times += 1  # a monitor says nothing twice, and each time counts
            text = f"The workers stopped{f', for the {self._times}. time' if self._times > 1 else ''}: {told.what}."
            self._monitor.log.remote(__name__, logging.WARNING, text)
