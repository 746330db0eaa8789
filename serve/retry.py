"""In Ray Serve's proxy: what a replica had begun when it died is sent to another one.

Ray Serve itself answers such a request 500. The proxy finds this module through the environment variable `VARIABLE`, which
has to be set where Ray is started; `changenet serve` does that for a Ray of its own.
"""

from __future__ import annotations

from collections import deque

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = "serve.retry.middlewares"
ATTEMPTS = 3
KEPT_BYTES = 64 << 20
ONCE_ONLY = ("/swap", "/rollback")  # sent again, they could do something else than the first time


def middlewares() -> list[Middleware]:
    """Return what the proxy puts around every request; nothing in a replica behind HAProxy, which asks, too."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        serve.get_replica_context()
    except RayServeException:
        return [Middleware(Retry)]
    return []


class Retry:
    """Asks again where nothing was answered; only a replica that died answers nothing.

    Args:
        app: The proxy.
        kept_bytes: Bodies up to this size are kept until their answer begins, and can be sent again.
    """

    def __init__(self, app: ASGIApp, kept_bytes: int = KEPT_BYTES) -> None:
        self.app = app
        self.kept_bytes = kept_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"].endswith(ONCE_ONLY):
            await self.app(scope, receive, send)
            return
        kept: list[Message] = []
        size, answered, gone = 0, False, False

        async def send_seen(message: Message) -> None:
            nonlocal answered
            answered = True
            kept.clear()
            await send(message)

        for attempt in range(1, ATTEMPTS + 1):
            again = deque(kept)

            async def receive_kept(again: deque[Message] = again) -> Message:
                nonlocal size, gone
                if again:
                    return again.popleft()
                message = await receive()
                gone = gone or message["type"] == "http.disconnect"
                if not answered and not gone:
                    size += len(message.get("body", b""))
                    if size <= self.kept_bytes:
                        kept.append(message)
                    else:
                        kept.clear()
                return message

            # A proxy that has no answer returns without one, or raises.
            last = attempt == ATTEMPTS
            try:
                await self.app(dict(scope), receive_kept, send_seen)
            except Exception:
                if answered or gone or last or size > self.kept_bytes:
                    raise
            if answered or gone or size > self.kept_bytes:
                return
