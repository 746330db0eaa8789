"""The route for a whole board: many pairs in one request, each with a result of its own."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request

from serve.access import open_to
from serve.form import PairForm
from serve.inspector import ServedModel
from serve.keys import Scope
from serve.manifest import ManifestRow, read_board
from serve.problems import HttpError, problem_of
from serve.schemas import BoardInspection, BoardTiming, RowError, RowResult
from serve.service import InService, Served, keeps, milliseconds, multipart_body

router = APIRouter()

ROUTE = "/v1/models/{model}/inspect_batch"
# Rows whose pictures are decoded and wait, in batches: enough that the engine never waits for decoding.
BATCHES_AHEAD = 4

_BOARD_BODY: dict[str, Any] = multipart_body(
    "The manifest, and every part that it names.",
    manifest={"type": "array", "items": ManifestRow.model_json_schema()},
)


@router.post(ROUTE, openapi_extra=_BOARD_BODY)
@open_to(Scope.INSPECT)
@keeps(lambda limits, body: limits.batch_bytes if body is None else body)
async def inspect_batch(model: Served, service: InService, request: Request) -> BoardInspection:
    """Compare all pairs of a board; a picture that cannot be used fails its own row only."""
    started = time.perf_counter()
    description = model.inspector.description
    async with service.hold(request):
        rows = await read_board(
            request, lights=description.layout.lights, num_golden=description.num_golden, limits=service.limits
        )
        read = time.perf_counter()
        service.metrics.stage(model.name, "read", read - started)
        ahead = asyncio.Semaphore(BATCHES_AHEAD * model.queue.settings.max_batch_size)
        async with model.boards, asyncio.TaskGroup() as group:
            tasks = [group.create_task(_result(model, row, ahead)) for row in rows]
        results = [task.result() for task in tasks]
    failed = sum(result.error is not None for result in results)
    request.state.facts = {"model": model.name, "rows": len(rows), "failed_rows": failed}
    return BoardInspection(
        model=model.name,
        version=model.version,
        engine=model.inspector.engine_name,
        results=results,
        timing_ms=BoardTiming(
            read=milliseconds(read - started),
            inspect=milliseconds(time.perf_counter() - read),
            total=milliseconds(time.perf_counter() - started),
        ),
    )


async def _result(model: ServedModel, pair: PairForm, ahead: asyncio.Semaphore) -> RowResult:
    row = pair.row or ""
    async with ahead:
        try:
            inspected = await model.inspect(pair)
        except HttpError as problem:
            return RowResult(
                id=row,
                score=None,
                threshold=model.inspector.description.threshold.value if pair.threshold is None else pair.threshold,
                threshold_source=pair.threshold_source,
                prediction="ERROR",
                golden_cached=False,
                error=RowError(**problem_of(problem)),
            )
    return RowResult(
        id=row,
        score=inspected.verdict.score,
        threshold=inspected.verdict.threshold,
        threshold_source=pair.threshold_source,
        prediction=inspected.verdict.prediction,
        golden_cached=inspected.golden_cached,
        error=None,
    )
