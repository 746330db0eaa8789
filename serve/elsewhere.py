"""The replica that clients reach, for models with replicas of their own: it passes requests on, and asks them how they are."""

from __future__ import annotations

import asyncio
import time
import uuid

from fastapi import Request, Response

from serve.forwarding import Elsewhere, Forwarded, Remote
from serve.heads import path_of, request_id_of
from serve.problems import HttpError, try_again
from serve.schemas import ModelAway, ModelList, ModelSummary
from serve.service import Service

# The replica itself ends what takes too long, and says so; this much later it is not there.
EXTRA_SECONDS = 5.0
LIST_SECONDS = 5.0
KEPT_BACK = (b"authorization", b"cookie", b"transfer-encoding")
"""Headers that are not passed on: the key stays here, and the body is whole."""


async def forward(request: Request, found: Elsewhere) -> Response:
    """Answer a request whose model runs elsewhere; an exception handler, so whatever leads to a model comes here.

    Raises:
        HttpError: 503, the model is busy or away; 413 or 408, the body is too large or late.
    """
    service: Service = request.app.state.service
    started = time.monotonic()
    async with service.hold(request, service.uploads[found.remote.name]):
        body = await request.body()
    scope = request.scope
    forwarded = Forwarded(
        method=request.method,
        path=path_of(scope),
        request_id=request_id_of(scope),
        query=scope.get("query_string", b""),
        headers=tuple((name, value) for name, value in scope["headers"] if name.lower() not in KEPT_BACK),
        body=body,
    )
    left = service.limits.request_seconds + EXTRA_SECONDS - (time.monotonic() - started)  # below the proxy's own limit
    answered = await found.remote.ask(forwarded, seconds=left)
    request.state.facts = dict(answered.facts)
    response = Response(answered.body, answered.status)
    response.raw_headers = list(answered.headers)
    return response


async def list_all(service: Service, here: list[ModelSummary]) -> ModelList:
    """Return all models, those of this replica first; of those elsewhere whoever does not answer is away."""
    found = await asyncio.gather(*(_summary(remote) for remote in service.remotes.values()))
    return ModelList(
        models=[*here, *(each for each in found if isinstance(each, ModelSummary))],
        away=[each for each in found if isinstance(each, ModelAway)],
    )


async def check_ready(service: Service) -> None:
    """Refuse (503) while a model is away that should not be; strangers may ask, so it is not named."""
    absences = await asyncio.gather(*(remote.absence() for remote in service.remotes.values()))
    if any(absence and not absence.sleeps for absence in absences):
        detail = "Some model has no replica that runs; GET /v1/models says which. The others answer."
        raise try_again("model-away", detail)


async def _summary(remote: Remote) -> ModelSummary | ModelAway:
    absence = await remote.absence()  # asked for its line, a model that sleeps would wake up
    if absence:
        return ModelAway(name=remote.name, reason=absence.reason, sleeps=absence.sleeps)
    request = Forwarded(method="GET", path="/v1/models", request_id=uuid.uuid4().hex)
    try:
        answered = await remote.ask(request, seconds=LIST_SECONDS)
        (summary,) = ModelList.model_validate_json(answered.body).models
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the others are listed
        reason = error.detail if isinstance(error, HttpError) else f"Its replica fails ({type(error).__name__})."
        return ModelAway(name=remote.name, reason=reason)
    return summary
