"""The models of a replica, which change while it runs: another bundle takes over, goes back, or runs in the shadow.

A change is a task of its own, as it outlives the request that asked for it: the bundle is loaded and tried out, the change
is written for all replicas, on top of what others wrote meanwhile, and the replica runs what is written. Replicas that
follow do the last step alone. Where two write at the same moment, the last one counts, for both.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from changenet.errors import ChangeNetError, DataError
from serve.changes import check_fits, pinned, refusal, replaced, text_of
from serve.inspector import ServedModel
from serve.model_state import Candidate, ModelState, NewerStateError, StateFiles, failure_of
from serve.problems import HttpError
from serve.settings import Batching, Source
from serve.shadow import Shadow
from serve.slot import ModelSlot
from serve.tallies import Tallies
from serve.threads import FILES, run_in

FOLLOW_SECONDS = 1.0
RETRY_SECONDS = 30.0

logger = logging.getLogger(__name__)

Load = Callable[[str, Source], ServedModel]
Change = asyncio.Task[None]


class ModelKeeper:
    """Changes the models of a replica, and follows the changes that other replicas made.

    Args:
        slots: The models at the start.
        load: Loads a bundle under a name; tried out and warm when it returns.
        files: Where all replicas learn of changes; without them nothing can be changed.
        close_after: Seconds until a model that was replaced ends: longer than any request.
        batching: For models loaded from now on.
    """

    def __init__(
        self,
        slots: Iterable[ModelSlot],
        *,
        load: Load,
        files: StateFiles | None,
        close_after: float,
        batching: Batching | None = None,
    ) -> None:
        self.slots = {slot.name: slot for slot in slots}
        self.tallies = Tallies(files.folder if files else None)
        self._load_now = load
        self._files = files
        self._close_after = close_after
        self._batching = batching or Batching()
        self._changes: set[Change] = set()

    def set_batching(self, batching: Batching) -> None:
        """Take other settings of batches, for all models and those to come."""
        self._batching = batching
        for slot in self.slots.values():
            for model in slot.models:
                model.queue.settings = batching

    def check_health(self) -> None:
        """Raise EngineError where the engine of a model that answers fails again and again."""
        for slot in self.slots.values():
            slot.active.check_health()

    def swap(self, slot: ModelSlot, source: Source, *, force: bool = False) -> Change:
        """Begin to let another bundle answer, in every replica; `force` takes one that wants other requests, too.

        The change raises:
            HttpError: 422, the bundle cannot be used; 404, there is no folder for changes; 503, it is away. The old
                bundle goes on.
        """
        return self._begin(self._swap(slot, source, force=force))

    def roll_back(self, slot: ModelSlot) -> Change:
        """Begin to let the bundle before this one answer again; raises as `swap`, 404 where there is none, and 409."""
        return self._begin(self._roll_back(slot))

    def set_shadow(self, slot: ModelSlot, candidate: Candidate | None) -> Change:
        """Begin to put a bundle in the shadow, or to take it away (raises as `swap`)."""
        return self._begin(self._set_shadow(slot, candidate))

    async def follow(self) -> None:
        """Follow the other replicas until cancelled; no model waits for another one that loads."""
        await asyncio.gather(*map(self._follow, self.slots.values()))

    async def look(self, slot: ModelSlot) -> None:
        """Follow the other replicas once, try again what did not load, and tell what the shadow saw."""
        async with slot.lock:
            try:
                wanted = await self._read(slot) or slot.state
                retry = slot.behind and time.monotonic() >= slot.retry_at
                if retry or wanted.generation != slot.state.generation:
                    await self._run(slot, wanted)
                if slot.shadow is not None:
                    await self.tallies.tell(slot.shadow)
            except (DataError, HttpError) as error:
                slot.behind = text_of(error)
            slot.active.shared.metrics.behind(slot.name, is_behind=slot.behind is not None)

    async def _follow(self, slot: ModelSlot) -> None:
        while True:
            try:
                await self.look(slot)
            except Exception:
                logger.exception("Cannot look for changes of %r", slot.name)
            await asyncio.sleep(FOLLOW_SECONDS)

    def _begin(self, change: Coroutine[Any, Any, None]) -> Change:
        task = asyncio.create_task(change)
        self._changes.add(task)  # asyncio itself would forget it
        task.add_done_callback(self._ended)
        return task

    def _ended(self, change: Change) -> None:
        self._changes.discard(change)
        if not change.cancelled() and not isinstance(error := change.exception(), HttpError | None):
            logger.error("A change of a model failed", exc_info=error)

    async def _swap(self, slot: ModelSlot, source: Source, *, force: bool) -> None:
        self._changeable()
        async with slot.lock:
            loaded = await self._try_out(slot, source, like=None if force else slot.active)
            state = await self._write(slot, lambda newest: replaced(slot, newest, source, loaded))
            await self._run(slot, state, active=loaded)

    async def _roll_back(self, slot: ModelSlot) -> None:
        self._changeable()
        async with slot.lock:
            before = (await self._newest(slot)).previous
            if before is None:
                raise HttpError(404, "no-earlier-bundle", f"No bundle of {slot.name!r} was replaced.")
            loaded = await self._try_out(slot, before)

            def back(newest: ModelState) -> ModelState:
                if newest.previous != before:
                    raise HttpError(
                        409, "changed-meanwhile", f"{slot.name!r} was changed meanwhile. Look, and ask again."
                    )
                return replaced(slot, newest, before, loaded)

            await self._run(slot, await self._write(slot, back), active=loaded)

    async def _set_shadow(self, slot: ModelSlot, candidate: Candidate | None) -> None:
        self._changeable()
        async with slot.lock:
            loaded = None
            if candidate is not None:
                loaded = await self._try_out(slot, candidate.source)
                candidate = candidate.model_copy(update={"source": pinned(candidate.source, loaded)})
            state = await self._write(slot, lambda newest: newest.changed(shadow=candidate, failure=None))
            await self._run(slot, state, candidate=loaded)

    def _changeable(self) -> StateFiles:
        if self._files is None:
            detail = (
                "Models cannot be changed: the service was started without goldens_dir, where replicas tell each other."
            )
            raise HttpError(404, "no-registry", detail)
        return self._files

    async def _try_out(self, slot: ModelSlot, source: Source, *, like: ServedModel | None = None) -> ServedModel:
        """Load a bundle that takes the requests of another model; where that fails, every replica learns of it (422)."""
        slot.trying = source.bundle
        try:
            loaded = await self._load(slot, source)
            if like is not None:
                check_fits(loaded, like)
            return loaded
        except ChangeNetError as error:
            failure = failure_of(source.bundle, str(error))
            slot.state = slot.state.model_copy(update={"failure": failure})
            with contextlib.suppress(HttpError):  # the reason matters more than that it cannot be written
                await self._write(slot, lambda newest: newest.changed(failure=failure))
            raise refusal(error) from error
        finally:
            slot.trying = None

    async def _load(self, slot: ModelSlot, source: Source) -> ServedModel:
        # A model that nobody takes needs no end: it has no thread until it is asked (`BatchQueue`).
        return await asyncio.to_thread(self._load_now, slot.name, source)

    async def _read(self, slot: ModelSlot) -> ModelState | None:
        """Return what is written about a model, None where nothing is that belongs to this configuration."""
        if self._files is None:
            return None
        state = await run_in(FILES, self._files.read, slot.name)
        return state if state is not None and state.configured == slot.state.configured else None

    async def _newest(self, slot: ModelSlot) -> ModelState:
        """Return what a change is made to; in place of a damaged file, which it replaces, what this replica knows."""
        try:
            return await self._read(slot) or slot.state
        except NewerStateError as error:
            raise HttpError(409, "newer-state", str(error)) from error
        except DataError:
            return slot.state

    async def _write(self, slot: ModelSlot, change: Callable[[ModelState], ModelState]) -> ModelState:
        """Change what is written now, which may be more than what was written when this change began."""
        state = change(await self._newest(slot))
        await run_in(FILES, self._changeable().write, slot.name, state)
        return state

    async def _run(
        self,
        slot: ModelSlot,
        wanted: ModelState,
        *,
        active: ServedModel | None = None,
        candidate: ServedModel | None = None,
    ) -> None:
        """Run what is wanted, as far as it loads; what is given was loaded for it. The one place where models come and go."""
        behind, source, before = None, wanted.active, slot.shadow
        if active is None:
            active = slot.active
            if slot.source != wanted.active:
                try:
                    active = await self._load(slot, wanted.active)
                except ChangeNetError as error:
                    behind, source = str(error), slot.source
        shadow = None
        if wanted.shadow is not None:
            if before is not None and candidate is None and before.wanted.source == wanted.shadow.source:
                candidate = before.candidate
            try:
                candidate = candidate or await self._load(slot, wanted.shadow.source)
            except ChangeNetError as error:  # the shadow matters less than what answers
                behind = behind or f"No shadow: {error}"
            else:
                same = before is not None and (before.wanted, before.beside) == (wanted.shadow, active)
                shadow = before if same else Shadow(candidate, wanted.shadow, beside=active)
        slot.state, slot.behind = wanted, behind
        if behind is not None:
            slot.retry_at = time.monotonic() + RETRY_SECONDS
            logger.error("%r is behind, with version %s: %s", slot.name, active.version, behind)
        for model in slot.take_over(active, source, shadow):
            asyncio.get_running_loop().call_later(self._close_after, model.queue.close)
        self.set_batching(self._batching)
        if before is not None and before is not shadow:
            await self.tallies.forget(before)
