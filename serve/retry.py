"""In Ray Serve's proxy: what a replica had begun when it died is sent to another one, and every failure is a problem.

Ray Serve itself answers such a request 500, and its own errors in plain text. The proxy finds this module through the
environment variable `VARIABLE`, which has to be set where Ray is started; `changenet serve` does that for a Ray of its own.
Behind HAProxy the HTTP servers of the replicas find it, too.
"""

from __future__ import annotations

import logging
from collections import deque

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.heads import readable, request_id_of
from serve.middleware import SECURITY_HEADERS
from serve.problems import HttpError, problem_response, try_again
from serve.resending import KEPT_BYTES, attempts_for, unanswered

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = "serve.retry.middlewares"

_RAYS_ERRORS = {
    408: HttpError(408, "timeout", "The answer was not here in time."),
    404: unanswered(""),  # of a proxy that does not know yet what runs: every path is the application's
    503: try_again("overloaded", "No replica can take this request."),
}

logger = logging.getLogger(__name__)


def middlewares() -> list[Middleware]:
    """Return what the proxy, or the HTTP server of a replica, puts around every request."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        serve.get_replica_context()
    except RayServeException:
        return [Middleware(Retry)]
    return [Middleware(Retry, resends=False)]  # HAProxy does


class Retry:
    """Asks again where nothing was answered; only a replica that died answers nothing.

    Args:
        app: The proxy.
        resends: Whether it asks again at all.
        kept_bytes: Bodies up to this size are kept until their answer begins, and can be sent again.
    """

    def __init__(self, app: ASGIApp, *, resends: bool = True, kept_bytes: int = KEPT_BYTES) -> None:
        self.app = app
        self.resends = resends
        self.kept_bytes = kept_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = {**scope, "headers": readable(scope["headers"])}
        is_rays = scope["path"].startswith("/-/")
        attempts = attempts_for(scope["path"]) if self.resends else 1
        kept: list[Message] = []
        size, answered, gone, replaced = 0, False, False, False

        async def send_seen(message: Message) -> None:
            nonlocal answered, replaced
            answered = True
            kept.clear()
            if message["type"] == "http.response.start" and not is_rays and (problem := _in_place_of(message)):
                replaced = True
                await _tell(scope, problem, receive, send)
            elif not replaced:
                await send(message)

        for attempt in range(1, attempts + 1):
            again = deque(kept)

            async def receive_kept(again: deque[Message] = again) -> Message:
                nonlocal size, gone
                if again:
                    return again.popleft()
                message = await receive()
                gone = gone or message["type"] == "http.disconnect"
                if not answered and not gone:
                    size += len(message.get("body", b""))
                    if attempts > 1 and size <= self.kept_bytes:
                        kept.append(message)
                    else:
                        kept.clear()
                return message

            # A proxy that has no answer returns without one, or raises.
            try:
                await self.app(dict(scope), receive_kept, send_seen)
            except Exception:
                if answered:
                    raise
                if not gone:
                    logger.exception("Attempt %d of request %s failed", attempt, request_id_of(scope))
            if answered or gone:
                return
            if size > self.kept_bytes:
                break
        await _tell(scope, unanswered(scope["path"]), receive, send)


def _in_place_of(start: Message) -> HttpError | None:
    """Return the problem instead of an error of Ray Serve itself: unlike those of applications it does not say how long it is."""
    headers = Headers(scope=start)
    is_rays = headers.get("content-type", "").startswith("text/plain") and "content-length" not in headers
    return _RAYS_ERRORS.get(start["status"]) if is_rays else None


async def _tell(scope: Scope, problem: HttpError, receive: Receive, send: Send) -> None:
    response = problem_response(scope, problem)
    response.headers.update({**SECURITY_HEADERS, "Cache-Control": "no-store", "X-Request-ID": request_id_of(scope)})
    await response(scope, receive, send)
