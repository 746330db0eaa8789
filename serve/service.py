"""What the routes share: the models, a place for each inspection, and small tools for answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from serve.inspector import ServedModel
from serve.metrics import Metrics
from serve.problems import HttpError
from serve.settings import Limits
from serve.slots import ModelKeeper, ModelSlot

RETRY_AFTER_SECONDS = 1


class Admission:
    """Counts the inspections that this replica holds and refuses more than it can keep in memory.

    Args:
        limit: Inspections at the same time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0

    @contextmanager
    def hold(self, places: int = 1) -> Iterator[None]:
        """Hold places; a request that wants more than there are at all takes them all.

        Raises:
            HttpError: 503 with `Retry-After`, when there are not as many.
        """
        places = min(places, self._limit)
        if self._inside + places > self._limit:
            detail = f"{self._limit} inspections are under way. Try again in a moment."
            raise HttpError(503, "overloaded", detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
        self._inside += places
        try:
            yield
        finally:
            self._inside -= places


@dataclass(frozen=True)
class Service:
    """What the routes share."""

    keeper: ModelKeeper
    admission: Admission
    limits: Limits
    wants_keys: bool
    metrics: Metrics

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """End what takes longer than a request may (408)."""
        seconds = self.limits.request_seconds
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise HttpError(408, "timeout", f"No verdict within {seconds:g} seconds.") from error


# Coroutines: FastAPI sends a plain function to a thread and back, for each request.
async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _slot(model: str, service: Annotated[Service, Depends(_service)]) -> ModelSlot:
    if model not in service.keeper.slots:
        raise HttpError(404, "no-such-model", f"No model {model!r} is served; GET /v1/models lists them.")
    return service.keeper.slots[model]


async def _served(slot: Annotated[ModelSlot, Depends(_slot)]) -> ServedModel:
    return slot.active


InService = Annotated[Service, Depends(_service)]
Slot = Annotated[ModelSlot, Depends(_slot)]
Served = Annotated[ServedModel, Depends(_served)]


def multipart_body(description: str, **parts: dict[str, Any]) -> dict[str, Any]:
    """Return what the OpenAPI document says about a multipart body that a route reads by itself."""
    schema = {"type": "object", "description": description, "properties": parts}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def milliseconds(seconds: float) -> float:
    """Return seconds as answers show them."""
    return round(1e3 * seconds, 3)
