"""The queue in front of one engine: whatever waits when the engine becomes free goes through it in one call.

Ray Serve's own `@serve.batch` closes a batch as soon as its waiting time is over, whether the engine is free or not;
without a waiting time every batch under load would hold one request, and with one every lone request would wait for it.
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
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._name = name
        self._thread: threading.Thread | None = None

    async def submit(self, item: Item) -> Result:
        """Return the result for `item`; an item whose caller has gone is skipped."""
        result: Result = await self._put(_Waiting(item, self._size(item)))
        return result

    async def run(self, function: Callable[[], Answer]) -> Answer:
        """Run other work in the engine's thread, between two batches."""
        answer: Answer = await self._put(_Waiting(alone=function))
        return answer

    def close(self) -> None:
        """Let the thread end when all that waits is done; whoever comes later all the same is served by another one."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    async def _put(self, waiting: _Waiting) -> Any:
        with self._changed:
            self._waiting.append(waiting)
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
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    self._thread = None
                    return []
                self._fill()
                if batch := self._take():
                    return batch

    def _fill(self) -> None:
        """Wait `batch_wait_timeout_s` for a batch to become full."""
        until = time.monotonic() + self.settings.batch_wait_timeout_s
        while not self._closed and sum(each.size for each in self._waiting) < self.settings.max_batch_size:
            left = until - time.monotonic()
            if left <= 0 or self._waiting[0].alone:
                return
            self._changed.wait(left)

    def _take(self) -> list[_Waiting]:
        """Take the items from the front that fit into one batch; the first one always does."""
        batch: list[_Waiting] = []
        room = self.settings.max_batch_size
        while self._waiting and (not batch or (not self._waiting[0].alone and self._waiting[0].size <= room)):
            each = self._waiting.popleft()
            if each.future.set_running_or_notify_cancel():
                batch.append(each)
                room -= each.size
                if each.alone:
                    break
        return batch
