"""Errors as `application/problem+json` (RFC 9457): one shape for every failure a client can see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as FrameworkError

from serve.request_id import request_id_of

MEDIA_TYPE = "application/problem+json"
TITLES = {
    400: "The request cannot be read",
    401: "No valid key",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    413: "Too large",
    415: "Not a picture",
    422: "Wrong fields",
    500: "Internal error",
    503: "Overloaded",
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


def problem_of(problem: HttpError) -> dict[str, Any]:
    """Return a problem as JSON, without the request it ended."""
    return {
        "type": f"urn:changenet:problem:{problem.kind}",
        "title": TITLES.get(problem.status_code, "Error"),
        "status": problem.status_code,
        "detail": problem.detail,
    }


def problem_response(problem: HttpError, request_id: str, *, open_inference: bool = False) -> JSONResponse:
    """Return the response that tells the client; those of the Open Inference Protocol look for a member `error`."""
    body = problem_of(problem) | {"request_id": request_id} | ({"error": problem.detail} if open_inference else {})
    if problem.problems:
        body["problems"] = list(problem.problems)
    return JSONResponse(body, status_code=problem.status_code, headers=_plain(problem.headers), media_type=MEDIA_TYPE)


def add_problem_handlers(app: FastAPI) -> None:
    """Let every error of `app` that is the client's be answered as a problem."""

    def from_problem(request: Request, error: HttpError) -> JSONResponse:
        open_inference = request.url.path.startswith("/v2/")
        return problem_response(error, request_id_of(request.scope), open_inference=open_inference)

    def from_framework(request: Request, error: FrameworkError) -> JSONResponse:
        kind = {404: "no-such-route", 405: "method-not-allowed"}.get(error.status_code, "http-error")
        problem = HttpError(error.status_code, kind, str(error.detail), headers=_plain(error.headers))
        return problem_response(problem, request_id_of(request.scope))

    def from_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        found = [f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors()]
        return problem_response(
            HttpError(422, "wrong-fields", "; ".join(found), problems=found), request_id_of(request.scope)
        )

    app.exception_handler(HttpError)(from_problem)
    app.exception_handler(FrameworkError)(from_framework)
    app.exception_handler(RequestValidationError)(from_validation)


def _plain(headers: Mapping[str, str] | None) -> dict[str, str] | None:
    return dict(headers) if headers else None
