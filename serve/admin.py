"""The routes that change what is served. All of them want an admin key, where keys are configured."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, status
from pydantic import Field

from serve.model_state import Candidate
from serve.problems import HttpError
from serve.schemas import FailedChange, ModelSummary, ShadowReport
from serve.service import InService, Slot
from serve.settings import Source
from serve.slot import ModelSlot

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


@router.post("/swap")
async def swap(slot: Slot, service: InService, change: Swap) -> ModelSummary:
    """Let another bundle answer, without a gap; where it cannot be used the old one goes on."""
    _allowed(slot, change)
    await service.keeper.swap(slot, _source(change), force=change.force)
    return summary(slot)


@router.post("/rollback")
async def roll_back(slot: Slot, service: InService) -> ModelSummary:
    """Let the bundle before this one answer again."""
    await service.keeper.roll_back(slot)
    return summary(slot)


@router.put("/shadow")
async def set_shadow(slot: Slot, service: InService, change: ShadowChange) -> ModelSummary:
    """Let another bundle see a share of the requests; nobody sees its verdicts."""
    _allowed(slot, change)
    candidate = Candidate(source=_source(change), traffic=change.traffic, run=uuid.uuid4().hex)
    await service.keeper.set_shadow(slot, candidate)
    return summary(slot)


@router.get("/shadow")
async def report_shadow(slot: Slot, service: InService) -> ShadowReport:
    """Say how the candidate in the shadow agrees with the model that answers."""
    shadow, tally = await service.keeper.tally(slot)
    return tally.report(
        model=slot.name, active=slot.active.version, candidate=shadow.candidate.version, traffic=shadow.traffic
    )


@router.delete("/shadow", status_code=status.HTTP_204_NO_CONTENT)
async def remove_shadow(slot: Slot, service: InService) -> None:
    """Take the candidate out of the shadow."""
    await service.keeper.set_shadow(slot, None)


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
        behind=slot.failure,
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
