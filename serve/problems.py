"""Errors as `application/problem+json` (RFC 9457): one shape for every failure a client can see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as FrameworkError
from starlette.routing import Match
from starlette.types import Scope

from serve.heads import path_of, request_id_of

MEDIA_TYPE = "application/problem+json"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
RETRY_AFTER_SECONDS = 1
TITLES = {
    400: "The request cannot be read",
    401: "No valid key",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Changed meanwhile",
    413: "Too large",
    415: "Content of another kind",
    422: "Cannot be done as asked",
    500: "Internal error",
    503: "Not available now",
}


class HttpError(HTTPException):
    """Ends a request with a problem.

    FastAPI lets an HTTPException through where it reads a body; any other error would become a 400 of its own there.

    Args:
        status: The HTTP status code.
        kind: Stable name of the kind of problem; the last part of its `type` URI.
        detail: What is wrong with this request, and what to do about it.
        problems: Every single mistake, where there may be several.
        headers: Further response headers.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        problems: Sequence[str] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.kind = kind
        self.problems = tuple(problems)


def try_again(kind: str, detail: str) -> HttpError:
    """Return a 503: nothing is wrong with the request, and a moment later it may be answered."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return HttpError(503, kind, f"{detail} Try again in a moment.", headers=headers)


def problem_of(problem: HttpError) -> dict[str, Any]:
    """Return a problem as JSON, without the request it ended."""
    return {
        "type": f"urn:changenet:problem:{problem.kind}",
        "title": TITLES.get(problem.status_code, "Error"),
        "status": problem.status_code,
        "detail": problem.detail,
    }


def problem_response(scope: Scope, problem: HttpError) -> JSONResponse:
    """Return the response that tells the client; those of the Open Inference Protocol look for a member `error`."""
    body = problem_of(problem) | {"request_id": request_id_of(scope)}
    if path_of(scope).split("/")[1:2] == ["v2"]:
        body["error"] = problem.detail
    if problem.problems:
        body["problems"] = list(problem.problems)
    headers = dict(problem.headers or {})
    return JSONResponse(body, status_code=problem.status_code, headers=headers, media_type=MEDIA_TYPE)


def add_problem_handlers(app: FastAPI) -> None:
    """Let every error of `app` that is the client's be answered as a problem."""

    def from_problem(request: Request, error: HttpError) -> JSONResponse:
        return problem_response(request.scope, error)

    def from_framework(request: Request, error: FrameworkError) -> JSONResponse:
        kind = {404: "no-such-route", 405: "method-not-allowed"}.get(error.status_code, "http-error")
        detail, headers = str(error.detail), dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods(app, request))
            detail = f"{request.method} cannot be done here; this route takes {headers['Allow']}."
        problem = HttpError(error.status_code, kind, detail, headers=headers)
        return problem_response(request.scope, problem)

    def from_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        found = [f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors()]
        return problem_response(request.scope, HttpError(422, "wrong-fields", "; ".join(found), problems=found))

    app.exception_handler(HttpError)(from_problem)
    app.exception_handler(FrameworkError)(from_framework)
    app.exception_handler(RequestValidationError)(from_validation)


def _methods(app: FastAPI, request: Request) -> list[str]:
    """Return what the path of a request takes: FastAPI itself names the methods of the first route alone."""
    scopes = [{**request.scope, "method": method} for method in METHODS]
    return [scope["method"] for scope in scopes if any(route.matches(scope)[0] is Match.FULL for route in app.routes)]
