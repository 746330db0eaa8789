"""What surrounds every request: its size limit, security headers, one log line, and the catch for the unexpected."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.heads import number_in, path_of, request_id_of
from serve.metrics import Metrics
from serve.problems import HttpError, problem_response

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("serve.access")

DROP_SECONDS = 10.0

# The page loads its own script and style and shows pictures from the user's disk; nothing else may load or embed.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
CLIENT_GONE = 499  # in log and metrics: nobody waited for the answer; the number that nginx made usual


class Envelope:
    """Adds the security headers, counts and logs every request, and answers a crash with a problem of status 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:
            logger.exception("Request %s failed", request_id_of(scope))
            if status:  # too late for another answer: let the connection break
                raise
            problem = HttpError(500, "internal", "The service failed on this request; its log has the reason.")
            await problem_response(scope, problem)(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - started
            # Of a path that is no route, or without a key, nothing is kept: it is whatever a stranger made up.
            route = getattr(scope.get("route"), "path", "none")
            status = status or CLIENT_GONE
            self.metrics.request(route=route, method=scope["method"], status=status, seconds=seconds)
            access_logger.info(
                "request",
                extra={
                    "http_request_id": request_id_of(scope),
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "milliseconds": round(1e3 * seconds, 2),
                    "key": scope["state"].get("key_name"),
                    **scope["state"].get("facts", {}),
                    "log_to_stderr": False,  # Ray Serve keeps such a line in the replica's own log file
                },
            )


class BodyLimit:
    """Answers 413 to a body over the limit: at once when its length is announced, else as soon as it is too long.

    A body that is not here in time is answered 408. The rest of a refused body is read and dropped (up to the limit again,
    for a few seconds) before the answer, because many clients only read an answer after they have sent everything.

    Args:
        app: What is protected.
        limit: Bytes of a body.
        boards: Paths that have a limit of their own.
        board_limit: That one.
        seconds: How long a body may take.
    """

    def __init__(self, app: ASGIApp, *, limit: int, boards: re.Pattern[str], board_limit: int, seconds: float) -> None:
        self.app = app
        self.limit = limit
        self.boards = boards
        self.board_limit = board_limit
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.board_limit if self.boards.fullmatch(path_of(scope)) else self.limit
        headers = Headers(scope=scope)
        read = 0
        ended = "content-length" not in headers and "transfer-encoding" not in headers
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.seconds

        async def receive_counted() -> Message:
            nonlocal read, ended
            # After its end a route may wait here for the client to go, for as long as it likes.
            async with asyncio.timeout_at(None if ended else deadline):
                message = await receive()
            read += len(message.get("body", b""))
            ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def receive_limited() -> Message:
            try:
                message = await receive_counted()
            except TimeoutError as error:
                raise HttpError(408, "timeout", f"The body was not here within {self.seconds:g} seconds.") from error
            if read > limit:
                raise _too_large(limit)
            return message

        async def send_after_body(message: Message) -> None:
            nonlocal deadline
            if message["type"] == "http.response.start":
                allowance = read + limit
                deadline = loop.time() + min(self.seconds, DROP_SECONDS)
                with contextlib.suppress(TimeoutError):
                    while not ended and read < allowance:
                        await receive_counted()
            await send(message)

        if (number_in(headers.get("content-length")) or 0) > limit:
            await problem_response(scope, _too_large(limit))(scope, receive, send_after_body)
        else:
            await self.app(scope, receive_limited, send_after_body)


def _too_large(limit: int) -> HttpError:
    return HttpError(413, "request-too-large", f"The body has more than {limit} bytes.")
