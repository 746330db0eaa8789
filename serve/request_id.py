"""The name of one request, in its answer's `X-Request-ID`, its problem and its log line."""

from __future__ import annotations

import uuid

from starlette.datastructures import Headers
from starlette.types import Scope


def request_id_of(scope: Scope) -> str:
    """Return the id that the client or Ray Serve's proxy gave (cut to 128 characters), or make one.

    The proxy puts it into the response header, so nobody else has to.
    """
    state = scope.setdefault("state", {})
    if "request_id" not in state:
        state["request_id"] = Headers(scope=scope).get("x-request-id", uuid.uuid4().hex)[:128]
    return str(state["request_id"])
