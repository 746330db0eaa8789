"""What the routes share: the models, a place for each inspection, and small tools for answers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from serve.forwarding import Elsewhere, Remote
from serve.heads import number_in
from serve.inspector import ServedModel
from serve.metrics import Metrics
from serve.problems import HttpError, try_again
from serve.settings import Limits
from serve.slot import ModelSlot
from serve.slots import ModelKeeper

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])


def keeps(memory: Callable[[Limits, int | None], int]) -> Callable[[Endpoint], Endpoint]:
    """Mark a route function with the bytes that a request to it keeps in memory; an unmarked one keeps those of one inspection.

    Args:
        memory: From the limits and the announced length of the body; None: it announces none.
    """

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.memory = memory  # type: ignore[attr-defined]
        return endpoint

    return mark


def places_of(request: Request, limits: Limits) -> int:
    """Return how many inspections a request counts as: one for each `request_bytes` that it keeps."""
    memory = getattr(request.scope["endpoint"], "memory", lambda *_: 0)
    kept: int = memory(limits, number_in(request.headers.get("content-length")))
    return max(1, math.ceil(kept / limits.request_bytes))


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
            raise try_again(
                "overloaded", f"All {self._limit} places for requests are taken; a large body takes several."
            )
        self._inside += places
        try:
            yield
        finally:
            self._inside -= places


@dataclass(frozen=True)
class Service:
    """What the routes share.

    Args:
        keeper: Has the models of this replica.
        admission: Of their inspections.
        limits: What one replica takes on.
        wants_keys: Clients need a key.
        metrics: Counts.
        remotes: Models with replicas of their own, by name.
    """

    keeper: ModelKeeper
    admission: Admission
    limits: Limits
    wants_keys: bool
    metrics: Metrics
    remotes: Mapping[str, Remote] = field(default_factory=dict)
    uploads: dict[str, Admission] = field(init=False)
    """For bodies that arrive for each of these: one that is busy takes no place of another."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "uploads", {name: Admission(self.limits.inspections) for name in self.remotes})

    @property
    def names(self) -> list[str]:
        """The names of all models."""
        return [*self.keeper.slots, *self.remotes]

    @asynccontextmanager
    async def hold(self, request: Request, admission: Admission | None = None) -> AsyncIterator[None]:
        """Hold the places of a request, and end what takes longer than a request may.

        Args:
            request: To one of the routes.
            admission: Whose places; None: those of this replica's inspections.

        Raises:
            HttpError: 503 or 408.
        """
        with (admission or self.admission).hold(places_of(request, self.limits)):
            async with self.in_time():
                yield

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """End what takes longer than a request may (HttpError, 408)."""
        seconds = self.limits.request_seconds
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise HttpError(408, "timeout", f"No answer within {seconds:g} seconds.") from error


# Coroutines, though they wait for nothing: FastAPI runs plain functions in a thread.
async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _slot(model: str, service: Annotated[Service, Depends(_service)]) -> ModelSlot:
    if model in service.remotes:
        raise Elsewhere(service.remotes[model])
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
