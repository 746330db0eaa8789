"""The HTTP routes, a function each. Whatever a client sends, it is answered with JSON or with a problem."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse
from starlette.routing import compile_path

import changenet
from serve import admin, board, goldens, open_inference
from serve.access import CHALLENGE, KeyGuard, check_scope, open_to
from serve.admin import summary
from serve.elsewhere import check_ready, forward, list_all
from serve.form import read_pair
from serve.forwarding import Elsewhere, Remote
from serve.keys import KeyRing, Scope
from serve.metrics import Metrics
from serve.middleware import BodyLimit, Envelope
from serve.origin import OriginGuard
from serve.page import mount_assets, render_page
from serve.problems import MEDIA_TYPE, add_problem_handlers
from serve.schemas import Inspection, Live, ModelFacts, ModelList, ProblemDetails, Ready, Timing
from serve.service import Admission, InService, Served, Service, milliseconds, multipart_body
from serve.settings import NAME_PATTERN, Limits
from serve.slots import ModelKeeper

router = APIRouter()


def create_app(
    keeper: ModelKeeper,
    limits: Limits,
    *,
    keys: KeyRing | None = None,
    hosts: Collection[str] = (),
    metrics: Metrics | None = None,
    remotes: Mapping[str, Remote] | None = None,
) -> FastAPI:
    """Return the web application that clients reach.

    Args:
        keeper: Has the models.
        limits: What one replica takes on.
        keys: Who may use it; None: everybody who reaches it.
        hosts: Names by which it may be called without keys; empty: any.
        metrics: Counts; None: nobody does.
        remotes: Models with replicas of their own, by name.
    """
    metrics = metrics or Metrics()
    app = create_routes(keeper, limits, metrics=metrics, remotes=remotes or {}, wants_keys=keys is not None)
    # The last one added is the outermost.
    if keys:
        app.add_middleware(KeyGuard, ring=keys)
    app.add_middleware(OriginGuard, hosts=() if keys else hosts, trusts_origin=keys is not None)
    app.add_middleware(
        BodyLimit,
        limit=limits.request_bytes,
        boards=compile_path(board.ROUTE)[0],
        board_limit=limits.batch_bytes,
        seconds=limits.request_seconds,
    )
    app.add_middleware(Envelope, metrics=metrics)
    mount_assets(app)
    return app


def create_routes(
    keeper: ModelKeeper, limits: Limits, *, metrics: Metrics, remotes: Mapping[str, Remote], wants_keys: bool = False
) -> FastAPI:
    """Return the routes alone: what a model's own replicas answer with (arguments as `create_app`)."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(keeper.follow())
        yield
        following.cancel()

    app = FastAPI(
        lifespan=lifespan,
        title="ChangeNet inspection",
        version=changenet.__version__,
        docs_url=None,  # both pages load scripts from elsewhere
        redoc_url=None,
        dependencies=[Depends(check_scope)] if wants_keys else [],
        responses={"default": {"description": "An error", "content": {MEDIA_TYPE: {}}, "model": ProblemDetails}},
    )
    app.state.service = Service(keeper, Admission(limits.inspections), limits, wants_keys, metrics, remotes)
    add_problem_handlers(app)
    app.exception_handler(Elsewhere)(forward)
    for each in (router, board.router, goldens.router, open_inference.router, admin.router):
        app.include_router(each)
    return app


_INSPECTION_BODY = multipart_body(
    "Models with several lights take the parts test.LIGHT and golden.LIGHT.",
    test={"type": "string", "format": "binary"},
    golden={"type": "array", "items": {"type": "string", "format": "binary"}},
    golden_id={"type": "string", "pattern": NAME_PATTERN},
    threshold={"type": "number"},
)


@router.post("/v1/models/{model}/inspect", openapi_extra=_INSPECTION_BODY)
@open_to(Scope.INSPECT)
async def inspect(model: Served, service: InService, request: Request) -> Inspection:
    """Compare a test picture with its golden and decide."""
    started = time.perf_counter()
    description = model.inspector.description
    async with service.hold(request):
        form = await read_pair(request, lights=description.layout.lights, num_golden=description.num_golden)
        read = time.perf_counter()
        service.metrics.stage(model.name, "read", read - started)
        inspected = await model.inspect(form)
    verdict = inspected.verdict
    request.state.facts = {"model": model.name, "score": verdict.score, "prediction": verdict.prediction}
    return Inspection(
        model=model.name,
        version=model.version,
        engine=model.inspector.engine_name,
        score=verdict.score,
        threshold=verdict.threshold,
        threshold_source=form.threshold_source,
        prediction=verdict.prediction,
        golden_cached=inspected.golden_cached,
        timing_ms=Timing(
            read=milliseconds(read - started),
            decode=milliseconds(inspected.decode_seconds),
            engine=milliseconds(inspected.engine_seconds),
            total=milliseconds(time.perf_counter() - started),
        ),
    )


@router.get("/v1/models")
@open_to(Scope.INSPECT)
async def list_models(service: InService) -> ModelList:
    """List the models that are served."""
    return await list_all(service, [summary(slot) for slot in service.keeper.slots.values()])


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
async def ready(service: InService) -> Ready:
    """Answer as soon as every model is loaded; 503 while one with replicas of its own has none that runs."""
    await check_ready(service)
    return Ready()


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
@open_to(None)
async def page(service: InService, request: Request) -> HTMLResponse:
    """Return the inspection page; with keys and without one, a browser gets the page that asks for it, as 401."""
    asks = service.wants_keys and request.state.key is None
    return HTMLResponse(
        render_page([] if asks else service.names, asks_for_key=asks),
        status_code=401 if asks else 200,
        headers={"WWW-Authenticate": CHALLENGE} if asks else None,
    )
