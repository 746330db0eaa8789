"""The routes that change what is served. All of them want an admin key, where keys are configured."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from fastapi import APIRouter, Response, status
from fastapi.responses import JSONResponse
from pydantic import Field

from serve.model_state import Candidate
from serve.problems import HttpError
from serve.schemas import FailedChange, ModelSummary, ShadowReport
from serve.service import InService, Service, Slot
from serve.settings import Source
from serve.slot import ModelSlot
from serve.slots import Change

# None of its routes is marked with `open_to`, so each wants the scope `admin`.
router = APIRouter(prefix="/v1/models/{model}")


class Swap(Source):
    """A bundle that is to answer."""

    force: bool = Field(
        default=False,
        description="Take it even if it compares other lights or fewer goldens, so that clients must change.",
    )


class ShadowChange(Source):
    """A bundle for the shadow."""

    traffic: float = Field(default=1.0, gt=0, le=1, description="Share of requests that it sees.")


_LATER: dict[int | str, dict[str, Any]] = {
    status.HTTP_202_ACCEPTED: {"model": ModelSummary, "description": "Under way; GET /v1/models tells how it ended"}
}


@router.post("/swap", responses=_LATER)
async def swap(slot: Slot, service: InService, change: Swap, response: Response) -> ModelSummary:
    """Let another bundle answer, without a gap; where it cannot be used the old one goes on."""
    _allowed(slot, change)
    return await _made(service.keeper.swap(slot, _source(change), force=change.force), slot, service, response)


@router.post("/rollback", responses=_LATER)
async def roll_back(slot: Slot, service: InService, response: Response) -> ModelSummary:
    """Let the bundle before this one answer again."""
    return await _made(service.keeper.roll_back(slot), slot, service, response)


@router.put("/shadow", responses=_LATER)
async def set_shadow(slot: Slot, service: InService, change: ShadowChange, response: Response) -> ModelSummary:
    """Let another bundle see a share of the requests; nobody sees its verdicts."""
    _allowed(slot, change)
    candidate = Candidate(source=_source(change), traffic=change.traffic, run=uuid.uuid4().hex)
    return await _made(service.keeper.set_shadow(slot, candidate), slot, service, response)


@router.get("/shadow")
async def report_shadow(slot: Slot, service: InService) -> ShadowReport:
    """Say how the candidate in the shadow agrees with the model that answers."""
    shadow = slot.shadow
    if shadow is None:
        raise HttpError(404, "no-shadow", f"{slot.name!r} has no shadow.")
    tally = await service.keeper.tallies.total(shadow)
    return tally.report(
        model=slot.name,
        active=shadow.beside.version,
        candidate=shadow.candidate.version,
        traffic=shadow.wanted.traffic,
    )


@router.delete("/shadow", status_code=status.HTTP_204_NO_CONTENT, responses=_LATER)
async def remove_shadow(slot: Slot, service: InService) -> Response:
    """Take the candidate out of the shadow."""
    response = Response(status_code=status.HTTP_204_NO_CONTENT)
    found = await _made(service.keeper.set_shadow(slot, None), slot, service, response)
    later = response.status_code == status.HTTP_202_ACCEPTED
    return JSONResponse(found.model_dump(), response.status_code) if later else response


async def _made(change: Change, slot: ModelSlot, service: Service, response: Response) -> ModelSummary:
    """Wait for a change as long as a request may take (202 if it takes longer); it goes on without its client."""
    await asyncio.wait({change}, timeout=service.limits.request_seconds)
    if change.done():
        change.result()
    else:
        response.status_code = status.HTTP_202_ACCEPTED
    return summary(slot)


def summary(slot: ModelSlot) -> ModelSummary:
    """Return one line of the list of models."""
    description, state = slot.active.inspector.description, slot.state
    return ModelSummary(
        name=slot.name,
        version=slot.active.version,
        engine=slot.active.inspector.engine_name,
        difference_module=description.difference_module,
        threshold=description.threshold.value,
        previous=state.previous.version if state.previous else None,
        shadow=slot.shadow.candidate.version if slot.shadow else None,
        failure=FailedChange(**state.failure.model_dump()) if state.failure else None,
        behind=slot.behind,
        trying=slot.trying,
    )


def _source(change: Source) -> Source:
    return Source(bundle=change.bundle, engine=change.engine, version=change.version)


def _allowed(slot: ModelSlot, source: Source) -> None:
    """Refuse places that nobody configured: the service fetches nothing from elsewhere."""
    here = {_place(model.bundle) for model in slot.state.configured} | {""}
    if _place(source.bundle) not in here:
        detail = f"Bundles come from {' or '.join(sorted(place or 'a local folder' for place in here))}."
        raise HttpError(422, "bundle-refused", detail)


def _place(path: str) -> str:
    """Return scheme and host of a URI, nothing for a path."""
    scheme, separator, rest = path.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator else ""
