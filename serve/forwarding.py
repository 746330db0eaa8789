"""Requests to a model with replicas of its own: what goes there, what comes back, and how it is answered there.

A request travels as it came, its body as the bytes that the client sent. The same routes answer it in the other process;
keys, limits and the count of requests stay with the replica that the client reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.types import ASGIApp, Message

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Forwarded:
    """A request on its way to the replicas of its model.

    Args:
        method: GET, POST, …
        path: Without the prefix of the application.
        request_id: For the answer's problem, where it is one.
        query: What stands behind the question mark.
        headers: As they came, without the API key.
        body: All of it.
    """

    method: str
    path: str
    request_id: str
    query: bytes = b""
    headers: Headers = ()
    body: bytes = b""


@dataclass(frozen=True)
class Answered:
    """The answer to it.

    Args:
        status: Of HTTP.
        headers: Of the answer.
        body: All of it.
        facts: For the line in the log.
    """

    status: int
    headers: Headers
    body: bytes
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Absence:
    """No replica of a model runs.

    Args:
        reason: Why not.
        sleeps: Nothing is wrong: the next request starts one.
    """

    reason: str
    sleeps: bool = False


class Remote(Protocol):
    """A model that runs in replicas of its own."""

    @property
    def name(self) -> str:
        """The name that clients use."""

    async def ask(self, request: Forwarded, *, seconds: float) -> Answered:
        """Let one of its replicas answer.

        Raises:
            HttpError: 503, none of them did in time, or all have enough to do.
        """

    async def absence(self) -> Absence | None:
        """Say why none of its replicas runs; None where one does. Starts none."""


class Elsewhere(Exception):  # noqa: N818 - no error: it leads a request to where it is answered
    """Ends a route before it begins: its model runs in other replicas."""

    def __init__(self, remote: Remote) -> None:
        super().__init__(remote.name)
        self.remote = remote


async def answer(app: ASGIApp, request: Forwarded) -> Answered:
    """Let an application answer a request that came from another process; what it raises goes back there."""
    parts: list[Message] = [{"type": "http.request", "body": request.body, "more_body": False}]
    sent: list[Message] = []
    state: dict[str, Any] = {"request_id": request.request_id}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http",
        "method": request.method,
        "path": request.path,
        "raw_path": request.path.encode(),
        "root_path": "",
        "query_string": request.query,
        "headers": list(request.headers),
        "client": None,
        "server": None,
        "state": state,
    }

    async def receive() -> Message:
        return parts.pop() if parts else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    body = b"".join(message.get("body", b"") for message in rest)
    return Answered(start["status"], tuple(start["headers"]), body, state.get("facts", {}))
