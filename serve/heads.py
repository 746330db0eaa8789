"""What the head of a request says, whatever a client wrote there: its id, its path, the numbers in it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import Scope

MAX_ID_LENGTH = 128

_REQUEST_ID = b"x-request-id"
_RAYS_TIMEOUTS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
_READ_BY_RAY = (b"x-session-id", b"serve-multiplexed-model-id", b"traceparent", b"tracestate")


def request_id_of(scope: Scope) -> str:
    """Return the name of a request, for its answer's `X-Request-ID`, its problem and its log line.

    It is what the client or the proxy gave (cut to 128 characters), or made up. The proxy puts it into the response header, so
    nobody else has to.
    """
    state = scope.setdefault("state", {})
    if "request_id" not in state:
        state["request_id"] = Headers(scope=scope).get("x-request-id", uuid.uuid4().hex)[:MAX_ID_LENGTH]
    return str(state["request_id"])


def path_of(scope: Scope) -> str:
    """Return the path without the prefix of the application."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def number_in(text: str | None) -> int | None:
    """Return the whole number that a header has to be; None where it is none, or has more digits than any length."""
    return int(text) if text is not None and re.fullmatch("[0-9]{1,18}", text) else None


def readable(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request as Ray Serve can read them, with one `X-Request-ID`.

    It decodes some strictly, and answers 500 in plain text where it cannot; with others a client would set Ray's own time-outs.
    """
    kept: list[tuple[bytes, bytes]] = []
    ids: list[bytes] = []
    for name, value in headers:
        lower = name.lower().replace(b"_", b"-")
        if lower == _REQUEST_ID:
            ids.append(value[:MAX_ID_LENGTH])
        elif lower not in _RAYS_TIMEOUTS and (lower not in _READ_BY_RAY or value.isascii()):
            kept.append((name, value))
    given = [each for each in ids if re.fullmatch(rb"[ -~]+", each)]
    return [*kept, (_REQUEST_ID, given[0] if given else uuid.uuid4().hex.encode())]
