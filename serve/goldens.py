"""The routes of registered goldens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response, status
from pydantic import AfterValidator

from serve.access import open_to
from serve.form import read_goldens
from serve.golden_registry import Registered
from serve.inspector import ServedModel
from serve.keys import Scope
from serve.schemas import GoldenFacts
from serve.service import InService, Served, multipart_body
from serve.settings import NAME_PATTERN, reachable

router = APIRouter(prefix="/v1/models/{model}/goldens/{golden_id}")

GoldenId = Annotated[str, Path(pattern=NAME_PATTERN), AfterValidator(reachable)]
Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]

_GOLDEN_BODY = multipart_body(
    "Models with several lights take the parts golden.LIGHT; models with several goldens take the parts repeatedly.",
    golden={"type": "array", "items": {"type": "string", "format": "binary"}},
)


@router.put("", openapi_extra=_GOLDEN_BODY, responses={201: {"model": GoldenFacts, "description": "New"}})
async def register_golden(
    model: Served, golden_id: GoldenId, service: InService, request: Request, response: Response
) -> GoldenFacts:
    """Keep a golden under an id, for every replica and beyond a restart; 201 if it is new, 200 if it replaces another."""
    description = model.inspector.description
    async with service.hold(request):
        pictures = await read_goldens(request, lights=description.layout.lights, num_golden=description.num_golden)
        registered, replaced = await model.goldens.register(golden_id, pictures)
    response.status_code = status.HTTP_200_OK if replaced else status.HTTP_201_CREATED
    return _facts(model, registered)


@router.get("")
@open_to(Scope.INSPECT)
async def describe_golden(model: Served, golden_id: GoldenId, service: InService) -> GoldenFacts:
    """Say what is registered under an id."""
    async with service.in_time():
        return _facts(model, await model.goldens.record(golden_id))


@router.get("/pictures/{digest}", response_class=Response)
@open_to(Scope.INSPECT)
async def golden_picture(
    model: Served, golden_id: GoldenId, digest: Digest, service: InService, request: Request
) -> Response:
    """Return the file that was registered, by the SHA-256 that the description of the golden names."""
    async with service.hold(request):
        content = await model.goldens.picture(golden_id, digest)
    return Response(content, media_type="application/octet-stream")  # whatever it is, no browser shows it by itself


@router.delete("", status_code=status.HTTP_204_NO_CONTENT)
async def forget_golden(model: Served, golden_id: GoldenId, service: InService) -> None:
    """Forget a golden, its pictures included."""
    async with service.in_time():
        await model.goldens.forget(golden_id)


def _facts(model: ServedModel, registered: Registered) -> GoldenFacts:
    return GoldenFacts(
        model=model.name,
        golden_id=registered.golden_id,
        pictures=list(registered.pictures),
        bytes=registered.size,
        registered=registered.registered,
    )
