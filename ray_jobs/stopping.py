"""Stopping a run between two batches, so that it leaves a checkpoint of where it is.

The driver asks the run's monitor (`ray_jobs.run_monitor`); every worker tells the monitor each step that it ends and hears after
which step all of them stop. No worker is ever more than a step ahead of another, so all of them hear it in time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

logger = logging.getLogger(__name__)


class Stopped(Exception):  # noqa: N818 - no error: the run ends early, as it was asked to
    """Ends the training loop of a worker."""


class StopWatch:
    """One worker's ear to the monitor.

    Args:
        monitor: The run's monitor.
    """

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor
        self._answer: Any = None

    def stops_after(self, step: int) -> bool:
        """Tell the monitor that a step of the optimiser is done, and say whether it was the last; call it every step.

        The answer is the one to the step before: nothing waits for the monitor.
        """
        import ray

        before, self._answer = self._answer, self._monitor.reached.remote(step)
        last = None if before is None else ray.get(before)
        return last is not None and step >= last


def in_background(fit: Callable[[], object]) -> Future[None]:
    """Run `fit` in a thread of its own, where Ray Train leaves the handling of signals to us."""
    outcome: Future[None] = Future()

    def target() -> None:
        try:
            fit()
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the thread that waits
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=target, name="fit", daemon=True).start()
    return outcome


def run_until_interrupted(fit: Callable[[], object], monitor: Any) -> None:
    """Run `fit`; an interrupt makes the workers write a checkpoint first, a second one ends it at once.

    Raises:
        KeyboardInterrupt: It was interrupted; with luck `fit` has ended before.
    """
    import ray

    outcome = in_background(fit)
    try:
        outcome.result()
    except KeyboardInterrupt:
        if ray.get(monitor.stop.remote()):
            logger.warning("Interrupted: a checkpoint is written first. Interrupt again to end at once.")
            outcome.result()
        raise
