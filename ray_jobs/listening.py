"""Addresses and ports that a service listens on."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket

HOST = "127.0.0.1"


def free_port(host: str = HOST) -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def free_ports(count: int, host: str = HOST) -> range:
    """Return ports in a row of which nobody uses the first, below those that systems give to clients."""
    starts = list(range(20_000, 32_000 - count, count))
    random.shuffle(starts)
    for start in starts:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, start))
            return range(start, start + count)
    return range(starts[0], starts[0] + count)


def is_loopback(host: str) -> bool:
    """Say whether an address is for this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def own_names(host: str) -> tuple[str, ...]:
    """Return the names, as in URLs, by which a service is called that is for this machine alone; none where it is for others."""
    names = (in_url(host), HOST, "localhost", "[::1]")
    return tuple(dict.fromkeys(names)) if is_loopback(host) else ()


def in_url(host: str) -> str:
    """Return how a service that listens on an address is reached from here: on every interface, through the loopback one."""
    return HOST if host == "0.0.0.0" else host  # noqa: S104
