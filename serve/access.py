"""Who may ask for what: every request needs a key, and every route the scope `admin`, unless it says otherwise here.

Without a file of keys none of this is in place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import Request, Security
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve import keys
from serve.heads import path_of
from serve.problems import HttpError, problem_response

# Health, for probes; the page and its own files, which hold nothing of the user's: it asks for the key itself.
OPEN_PATHS = ("/v2/health/", "/page/")
PAGE = "/"
LOOK_SECONDS = 0.5  # that requests wait at most for a look at the file of keys
CHALLENGE = 'Bearer realm="changenet"'

logger = logging.getLogger(__name__)

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])

_bearer = HTTPBearer(auto_error=False, description="An API key, as `changenet api-key` made it.")


def open_to(scope: keys.Scope | None) -> Callable[[Endpoint], Endpoint]:
    """Mark a route function with the scope that its callers need; None: none. An unmarked one needs `admin`."""

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.needed_scope = scope  # type: ignore[attr-defined]
        return endpoint

    return mark


def needed_scope(endpoint: object) -> keys.Scope | None:
    """Return the scope that callers of a route function need."""
    scope: keys.Scope | None = getattr(endpoint, "needed_scope", keys.Scope.ADMIN)
    return scope


async def check_scope(request: Request, _header: Annotated[object, Security(_bearer)]) -> None:
    """Refuse a key that is not good for this route; a dependency of all routes.

    Raises:
        HttpError: 403.
    """
    needed = needed_scope(request.scope["endpoint"])
    key: keys.ApiKey | None = request.state.key
    if needed is None or (key is not None and key.allows(needed)):
        return
    headers = {"WWW-Authenticate": f'{CHALLENGE}, error="insufficient_scope", scope="{needed}"'}
    raise HttpError(403, "key-not-allowed", f"This needs a key with the scope {str(needed)!r}.", headers=headers)


class KeyGuard:
    """Answers 401 to a request without a valid `Authorization: Bearer KEY`, before anything of it is read.

    Routes find the key, or None, as `request.state.key`. A change of the file of keys counts within a second, in every
    replica by itself. While the share that it is on hangs, the last good keys stay in force, with an error in the log.
    """

    def __init__(self, app: ASGIApp, ring: keys.KeyRing) -> None:
        self.app = app
        self.ring = ring
        self._looking: asyncio.Task[None] | None = None
        self._until = 0.0  # when nobody waits for it any longer
        self._told = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        kind, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        given = secret.strip() if kind.lower() == "bearer" else ""
        await self._look()
        key = self.ring.find(given) if given else None
        state = scope.setdefault("state", {})
        state["key"] = key
        state["key_name"] = key.name if key else None
        path = path_of(scope)
        if key is None and path != PAGE and not path.startswith(OPEN_PATHS):
            await problem_response(scope, _refusal(bool(given)))(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _look(self) -> None:
        """Wait for a look at the file where the last one is too old; all requests wait for the same one."""
        loop = asyncio.get_running_loop()
        if self._looking is None or self._looking.done():
            if not self.ring.stale:
                return
            self._looking = asyncio.create_task(asyncio.to_thread(self.ring.refresh))
            self._until = loop.time() + LOOK_SECONDS
            self._told = False
        await asyncio.wait({self._looking}, timeout=max(0.0, self._until - loop.time()))
        if not self._looking.done() and not self._told:
            self._told = True
            logger.error("The file of API keys cannot be read at the moment; the last good keys stay in force.")


def _refusal(given: bool) -> HttpError:
    if given:
        headers = {"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'}
        return HttpError(401, "wrong-key", "This API key is not known here.", headers=headers)
    detail = "This service wants an API key: send the header 'Authorization: Bearer KEY'."
    return HttpError(401, "no-key", detail, headers={"WWW-Authenticate": CHALLENGE})
