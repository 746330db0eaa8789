"""How a run's workers show their progress and their log records on the terminal of the driver.

Ray forwards everything that its processes print; that is chatter to a user. Workers tell what matters to one small
actor instead, the monitor of the run, and the driver shows it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from changenet.errors import ChangeNetError
from ray_jobs.console import progress

logger = logging.getLogger(__name__)

PERIOD = 0.3  # seconds between two looks
SLOW_START = 120.0  # seconds after which workers that have not begun are worth a word
REMINDER = 300.0  # seconds until the next one


@dataclass
class RunMonitor:
    """The state of the bar, the records nobody has read yet, and whether to stop. Lives in an actor."""

    title: str = ""
    done: int = 0
    total: int | None = None
    records: list[tuple[str, int, str]] = field(default_factory=list)
    said: set[str] = field(default_factory=set)
    newest: int | None = None
    last: int | None = None
    error: ChangeNetError | None = None

    def show(self, title: str, done: int, total: int | None) -> None:
        """Set the bar; without a total nobody works: workers start."""
        self.title, self.done, self.total = title, done, total

    def log(self, name: str, level: int, message: str) -> None:
        """Keep a log record for the driver, once: every epoch and every worker may have the same to say."""
        if message not in self.said:
            self.said.add(message)
            self.records.append((name, level, message))

    def reached(self, step: int) -> int | None:
        """Note the step that a worker has ended; return the one after which all stop, once they shall."""
        if self.newest is None or step > self.newest or step < self.newest - 1:  # workers that start again are behind
            self.newest = step
        return self.last

    def fail(self, error: ChangeNetError) -> None:
        """Keep why the run cannot work: workers that start again would only find the same."""
        self.error = error

    def failure(self) -> ChangeNetError | None:
        """Return why the run cannot work."""
        return self.error

    def stop(self) -> bool:
        """Let all workers stop at the first step that none of them has passed when it hears; False = none has begun."""
        if self.newest is not None and self.last is None:
            self.last = self.newest + 2
        return self.last is not None

    def take(self) -> tuple[str, int, int | None, list[tuple[str, int, str]]]:
        """Return the bar, and the records since the last call."""
        records, self.records = self.records, []
        return self.title, self.done, self.total, records


def start_monitor(kind: type[RunMonitor] = RunMonitor, *arguments: Any) -> Any:
    """Start a monitor on the node of this process, and return its handle: no other node can take it away when it goes."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(kind).options(scheduling_strategy=here).remote(*arguments)


@contextlib.contextmanager
def follow(title: str) -> Iterator[Any]:
    """Give workers a monitor, and show what they tell it until the block ends.

    Yields:
        The actor's handle, to be sent to the workers: `monitor.show.remote(title, done, total)`.
    """
    import ray

    monitor = start_monitor()
    ended = threading.Event()
    waiting = Waiting()
    with progress() as bar:
        task = bar.add_task(title, total=None)

        def look() -> None:
            shown, done, total, records = ray.get(monitor.take.remote())
            for name, level, message in records:
                logging.getLogger(name).log(level, "%s", message)
            if shown:
                bar.update(task, description=shown, completed=done, total=total)
            waiting.look(working=total is not None, now=time.monotonic())

        def watch() -> None:
            while not ended.wait(PERIOD):
                with contextlib.suppress(ray.exceptions.RayError):  # it may go before us when Ray is shut down
                    look()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield monitor
        finally:
            ended.set()
            watcher.join()
            with contextlib.suppress(ray.exceptions.RayError):
                look()


class Waiting:
    """Says so when workers take long to start: Ray tries again without end, and without a word to the user."""

    def __init__(self) -> None:
        self._next: float | None = None

    def look(self, *, working: bool, now: float) -> None:
        """Note whether workers are at work."""
        if working or self._next is None:
            self._next = None if working else now + SLOW_START
        elif now >= self._next:
            self._next = now + REMINDER
            logger.warning(
                "The workers have not started yet, and are tried again: others hold the CPUs or GPUs of the cluster, a node "
                "is gone, or the machines are overloaded. `ray status` tells which."
            )


class MonitorHandler(logging.Handler):
    """Sends log records of a worker to the monitor."""

    def __init__(self, monitor: Any) -> None:
        super().__init__()
        self._monitor = monitor

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; nothing waits for it."""
        self._monitor.log.remote(record.name, record.levelno, record.getMessage())


def log_to(monitor: Any) -> None:
    """Send this process's records of our own packages to the monitor, and nothing else."""
    for package in ("changenet", "ray_jobs"):
        logger = logging.getLogger(package)
        logger.handlers = [MonitorHandler(monitor)]
        logger.setLevel(logging.INFO)
        logger.propagate = False
