"""Joining a Ray cluster, or starting a local Ray in this process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping

from changenet.errors import ChangeNetError, RunError

# Read by Ray and by OpenMP when a process starts (the command sets them first of all); a local Ray hands them on to its workers.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing about a user's run leaves the machine
    # Threads that wait spin for some microseconds only, then sleep: on a shared machine endless spinning slows all
    # down many times over, and sleeping at once costs a third of the speed of a machine that is free.
    "GOMP_SPINCOUNT": "20000",
}

LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"
LOCAL = "local"
REACH_SECONDS = 10.0


def connect(address: str | None = None) -> None:
    """Join the cluster at `address` (or at `RAY_ADDRESS`); without either start a local Ray in this process.

    A Ray that this process is already connected to is kept.

    Raises:
        ChangeNetError: There is no Ray at the address, or it lets nobody in.
        RunError: Ray does not start here.
    """
    os.environ.update(ENVIRONMENT)
    # Ray Data makes Ray log an error that is none; what really fails is raised. A value that is set stays.
    os.environ.setdefault(LOG_LEVEL, "fatal")
    import ray

    if ray.is_initialized():
        return
    target = _target(address)
    local = target == LOCAL
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        _reach(target)
        with _log_level_unannounced():
            ray.init(
                address=target,
                logging_level=logging.ERROR,
                log_to_driver=False,  # ray_jobs.run_monitor shows what a user needs
                include_dashboard=False if local else None,
                runtime_env=None if local else {"env_vars": ENVIRONMENT},
            )
    except Exception as error:  # Ray raises a plain Exception, too
        said = next(iter(str(error).splitlines()), type(error).__name__)
        if local:
            fix = "The machine may be overloaded, or full: run the same command again when it is not."
            raise RunError(f"Ray does not start on this machine ({said})", fix=fix) from error
        fix = "See that `ray status` answers there, with the same Ray version, and that the token is the cluster's."
        raise ChangeNetError(f"the Ray cluster cannot be joined ({said})", where=target, fix=fix) from error
    if callable(on_terminate):  # Ray puts its own in place, which ends the process in the middle of things
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, on_terminate)


@contextlib.contextmanager
def _log_level_unannounced() -> Iterator[None]:
    """Keep from stderr the line by which Ray's C++ part says that it obeys `LOG_LEVEL`; all else follows afterwards."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        terminal = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held:
                if LOG_LEVEL.encode() not in line:
                    os.write(2, line)


def _reach(target: str) -> None:
    """Raise OSError where nobody listens at an address: Ray would go on trying for a quarter of an hour."""
    host, _, port = target.rpartition(":")
    if host and port.isdecimal() and "://" not in host:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()


def will_start_here(address: str | None = None) -> bool:
    """Say whether `connect` starts a Ray in this process, which then has what this machine has."""
    import ray

    return not ray.is_initialized() and _target(address) == LOCAL


def _target(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or LOCAL


def nodes() -> list[tuple[float, float]]:
    """Return the CPUs and GPUs of each node."""
    import ray

    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(float(resources.get("CPU", 0)), float(resources.get("GPU", 0))) for resources in there]


def room_for(bundle: Mapping[str, float]) -> int:
    """Return how many bundles of Ray resources all nodes together hold, each on one node, were nobody else there."""
    import ray

    def held(there: Mapping[str, float]) -> int:
        return min(int(there.get(name, 0) / need + 1e-6) for name, need in bundle.items() if need)

    return sum(held(node["Resources"]) for node in ray.nodes() if node["Alive"])


def is_own() -> bool:
    """Say whether this process has started the Ray that it is connected to: no other machine will join that one."""
    import ray

    node = ray._private.worker.global_worker.node
    return node is not None and bool(node.is_head())
