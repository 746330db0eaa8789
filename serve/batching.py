"""The queue in front of one engine: whatever waits when the engine becomes free goes through it in one call.

Ray Serve's own `@serve.batch` closes a batch as soon as its waiting time is over, whether the engine is free or not;
without a waiting time every batch under load would hold one request, and with one every lone request would wait for it.

What is urgent waits in a lane of its own, so a pair that a station asks for is in the next batch though boards of hundreds
of pairs came first.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from serve.settings import Batching

Item = TypeVar("Item")
Result = TypeVar("Result")
Answer = TypeVar("Answer")


@dataclass
class _Waiting:
    """One item, or work of another kind that runs alone."""

    item: Any = None
    size: int = 1
    alone: Callable[[], Any] | None = None
    future: Future[Any] = field(default_factory=Future)


class BatchQueue(Generic[Item, Result]):
    """Owns the one thread that uses an engine; it begins with the first item, so a queue that nobody uses needs no end.

    Args:
        name: Of the thread.
        work: Computes a result for each item of a batch, in order.
        size: How large an item is, in the unit of `max_batch_size`.
        settings: Of batches; may be replaced at any time.
    """

    def __init__(
        self,
        *,
        name: str,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        size: Callable[[Item], int],
        settings: Batching,
    ) -> None:
        self.settings = settings
        self._work = work
        self._size = size
        self._urgent: deque[_Waiting] = deque()
        self._others: deque[_Waiting] = deque()
        self._lanes = (self._urgent, self._others)  # the one that goes first next time is the last
        self._changed = threading.Condition()
        self._closed = False
        self._name = name
        self._thread: threading.Thread | None = None

    async def submit(self, item: Item, *, urgent: bool = False) -> Result:
        """Return the result for `item`; an item whose caller has gone is skipped."""
        result: Result = await self._put(_Waiting(item, self._size(item)), self._urgent if urgent else self._others)
        return result

    async def run(self, function: Callable[[], Answer]) -> Answer:
        """Run other work in the engine's thread, between two batches; urgent."""
        answer: Answer = await self._put(_Waiting(alone=function), self._urgent)
        return answer

    def close(self) -> None:
        """Let the thread end when all that waits is done; whoever comes later all the same is served by another one."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    async def _put(self, waiting: _Waiting, lane: deque[_Waiting]) -> Any:
        with self._changed:
            lane.append(waiting)
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        return await asyncio.wrap_future(waiting.future)

    def _run(self) -> None:
        while batch := self._next():
            try:
                alone = batch[0].alone
                results = [alone()] if alone else self._work([each.item for each in batch])
                answers = list(zip(batch, results, strict=True))
            except BaseException as error:  # noqa: BLE001 - whoever waits is told
                for each in batch:
                    each.future.set_exception(error)
            else:
                for each, result in answers:
                    each.future.set_result(result)
                answers.clear()
            batch.clear()  # pictures must not live until the next request

    def _next(self) -> list[_Waiting]:
        """Wait for the next batch; empty when the queue was closed."""
        with self._changed:
            while True:
                while not any(self._lanes) and not self._closed:
                    self._changed.wait()
                if not any(self._lanes):
                    self._thread = None
                    return []
                self._fill()
                if batch := self._take():
                    return batch

    def _fill(self) -> None:
        """Wait `batch_wait_timeout_s` for a batch to become full."""
        until = time.monotonic() + self.settings.batch_wait_timeout_s
        while (
            not self._closed and sum(each.size for lane in self._lanes for each in lane) < self.settings.max_batch_size
        ):
            left = until - time.monotonic()
            if left <= 0 or any(lane and lane[0].alone for lane in self._lanes):
                return
            self._changed.wait(left)

    def _take(self) -> list[_Waiting]:
        """Take from the front of the lanes what fits into one batch; the first item always does.

        Each lane goes first every other time and then leaves half of the batch to the other one, so neither waits for ever.
        """
        self._lanes = self._lanes[::-1]
        first, second = self._lanes
        batch: list[_Waiting] = []
        room = self.settings.max_batch_size
        for lane, left in ((first, room // 2 if second else 0), (second, 0), (first, 0)):
            while lane and (not batch or not (batch[0].alone or lane[0].alone or lane[0].size > room - left)):
                each = lane.popleft()
                if each.future.set_running_or_notify_cancel():
                    batch.append(each)
                    room -= each.size
        return batch
