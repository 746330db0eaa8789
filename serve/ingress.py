"""The HTTP routes, a function each. Whatever a client sends, it is answered with JSON or with a problem."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse

import changenet
from serve.access import CHALLENGE, KeyGuard, check_scope, open_to
from serve.form import read_inspection_form
from serve.inspector import PICTURE_PROBLEMS, ServedModel
from serve.keys import KeyRing, Scope
from serve.metrics import Metrics
from serve.middleware import BodyLimit, Envelope
from serve.page import mount_assets, render_page
from serve.problems import MEDIA_TYPE, HttpError, add_problem_handlers
from serve.schemas import Inspection, Live, ModelFacts, ModelList, ModelSummary, ProblemDetails, Ready, Timing
from serve.settings import Limits

RETRY_AFTER_SECONDS = 1

router = APIRouter()


class Admission:
    """Counts the inspections that this replica holds and refuses more than it can keep in memory.

    Args:
        limit: Inspections at the same time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place.

        Raises:
            HttpError: 503 with `Retry-After`, when there is none.
        """
        if self._inside >= self._limit:
            detail = f"{self._limit} inspections are under way. Try again in a moment."
            raise HttpError(503, "overloaded", detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


@dataclass(frozen=True)
class Service:
    """What the routes share."""

    models: Mapping[str, ServedModel]
    admission: Admission
    request_seconds: float
    wants_keys: bool
    metrics: Metrics


def create_app(
    models: Mapping[str, ServedModel], limits: Limits, *, keys: KeyRing | None = None, metrics: Metrics | None = None
) -> FastAPI:
    """Return the web application around loaded models.

    Args:
        models: By name.
        limits: What one replica takes on.
        keys: Who may use it; None: everybody who reaches it.
        metrics: Counts; None: nobody does.
    """
    metrics = metrics or Metrics()
    app = FastAPI(
        title="ChangeNet inspection",
        version=changenet.__version__,
        docs_url=None,  # both pages load scripts from elsewhere
        redoc_url=None,
        dependencies=[Depends(check_scope)] if keys else [],
        responses={"default": {"description": "An error", "content": {MEDIA_TYPE: {}}, "model": ProblemDetails}},
    )
    app.state.service = Service(
        models, Admission(limits.inspections), limits.request_seconds, keys is not None, metrics
    )
    add_problem_handlers(app)
    # The last one added is the outermost.
    if keys:
        app.add_middleware(KeyGuard, ring=keys)
    app.add_middleware(BodyLimit, limit=limits.request_bytes, seconds=limits.request_seconds)
    app.add_middleware(Envelope, metrics=metrics)
    app.include_router(router)
    mount_assets(app)
    return app


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _served(model: str, service: Annotated[Service, Depends(_service)]) -> ServedModel:
    if model not in service.models:
        raise HttpError(404, "no-such-model", f"No model {model!r} is served; GET /v1/models lists them.")
    return service.models[model]


InService = Annotated[Service, Depends(_service)]
Served = Annotated[ServedModel, Depends(_served)]

_INSPECTION_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "description": "Models with several lights take the parts test.LIGHT and golden.LIGHT.",
                    "properties": {
                        "test": {"type": "string", "format": "binary"},
                        "golden": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "golden_id": {"type": "string"},
                    },
                }
            }
        },
    }
}


@router.post("/v1/models/{model}/inspect", openapi_extra=_INSPECTION_BODY)
@open_to(Scope.INSPECT)
async def inspect(model: Served, service: InService, request: Request) -> Inspection:
    """Compare a test picture with its golden and decide."""
    started = time.perf_counter()
    with service.admission.one():
        description = model.inspector.description
        try:
            async with asyncio.timeout(service.request_seconds):
                form = await read_inspection_form(
                    request, lights=description.layout.lights, num_golden=description.num_golden
                )
                read = time.perf_counter()
                inspected = await model.inspect(form)
        except HttpError as error:
            if error.kind in PICTURE_PROBLEMS:
                service.metrics.picture_error(model.name, error.kind)
            raise
        except TimeoutError as error:
            raise HttpError(408, "timeout", f"No verdict within {service.request_seconds:g} seconds.") from error
    verdict = inspected.verdict
    service.metrics.stage(model.name, "read", read - started)
    service.metrics.stage(model.name, "decode", inspected.decode_seconds)
    service.metrics.stage(model.name, "engine", inspected.engine_seconds)
    service.metrics.golden(model.name, cached=False)
    service.metrics.decision(
        model.name, model.version, description=description, score=verdict.score, prediction=verdict.prediction
    )
    request.state.facts = {"model": model.name, "score": verdict.score, "prediction": verdict.prediction}
    return Inspection(
        model=model.name,
        version=model.version,
        engine=model.inspector.engine_name,
        score=verdict.score,
        threshold=verdict.threshold,
        prediction=verdict.prediction,
        golden_cached=False,
        timing_ms=Timing(
            read=_milliseconds(read - started),
            decode=_milliseconds(inspected.decode_seconds),
            engine=_milliseconds(inspected.engine_seconds),
            total=_milliseconds(time.perf_counter() - started),
        ),
    )


@router.get("/v1/models")
@open_to(Scope.INSPECT)
async def list_models(service: InService) -> ModelList:
    """List the models that are served."""
    return ModelList(models=[_summary(model) for model in service.models.values()])


@router.get("/v1/models/{model}")
@open_to(Scope.INSPECT)
async def describe_model(model: Served) -> ModelFacts:
    """Return what the bundle of a model says about itself."""
    return model.facts()


@router.get("/v2/health/live")
@open_to(None)
async def live() -> Live:
    """Answer while the process does."""
    return Live()


@router.get("/v2/health/ready")
@open_to(None)
async def ready() -> Ready:
    """Answer as soon as every model is loaded (before that there is no replica to answer)."""
    return Ready()


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
@open_to(None)
async def page(service: InService, request: Request) -> HTMLResponse:
    """Return the inspection page; with keys and without one, a browser gets the page that asks for it, as 401."""
    asks = service.wants_keys and request.state.key is None
    return HTMLResponse(
        render_page([] if asks else list(service.models), asks_for_key=asks),
        status_code=401 if asks else 200,
        headers={"WWW-Authenticate": CHALLENGE} if asks else None,
    )


def _summary(model: ServedModel) -> ModelSummary:
    description = model.inspector.description
    return ModelSummary(
        name=model.name,
        version=model.version,
        engine=model.inspector.engine_name,
        difference_module=description.difference_module,
        threshold=description.threshold.value,
    )


def _milliseconds(seconds: float) -> float:
    return round(1e3 * seconds, 3)
