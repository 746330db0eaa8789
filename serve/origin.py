"""Against other web pages in a user's browser: it reaches a service that they do not, and would act for them."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.problems import HttpError, problem_response

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # they change nothing, and another page cannot read their answers


class OriginGuard:
    """Answers 403 to what another web page lets a browser send, before anything of it is read.

    A browser asks nobody before it sends what a form could: a file, or nothing as for `rollback`. It says in headers where that
    came from; clients that are no browsers have no such headers, and are let in.

    Args:
        app: What is protected.
        hosts: Names by which it may be called; empty: any. A page can make its own name lead to this machine, and then ask under
            it whatever it likes (DNS rebinding).
        trusts_origin: No need to look at `Origin`: another page has no key, and a proxy in front may have changed the name.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], trusts_origin: bool) -> None:
        self.app = app
        self.hosts = hosts
        self.trusts_origin = trusts_origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        problem = self._refusal(scope["method"], Headers(scope=scope)) if scope["type"] == "http" else None
        if problem:
            await problem_response(scope, problem)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> HttpError | None:
        host = headers.get("host", "").lower()
        if self.hosts and host and re.sub(r":\d*$", "", host) not in self.hosts:
            detail = (
                f"This service has no keys and is called {' or '.join(self.hosts)} only. With keys it takes any name."
            )
            return HttpError(403, "wrong-host", detail)
        if method in SAFE_METHODS:
            return None
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None:
            foreign = site not in ("same-origin", "none")
        else:  # an old browser, or no HTTPS
            foreign = origin is not None and not self.trusts_origin and origin.lower().partition("://")[2] != host
        return HttpError(403, "other-origin", "Another web page may not send this.") if foreign else None
