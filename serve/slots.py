"""The models of a replica, which change while it runs: another bundle takes over, goes back, or runs in the shadow."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from typing import NoReturn

from changenet.errors import ChangeNetError, CheckpointError, DataError
from serve.inspector import ServedModel
from serve.model_state import Candidate, ModelState, StateFiles
from serve.problems import HttpError
from serve.settings import Batching, Source
from serve.shadow import Shadow, Tally
from serve.slot import ModelSlot

FOLLOW_SECONDS = 1.0
RETRY_SECONDS = 30.0

logger = logging.getLogger(__name__)

Load = Callable[[str, Source], ServedModel]


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
        self._load_now = load
        self._files = files
        self._close_after = close_after
        self._batching = batching or Batching()
        self._replica = uuid.uuid4().hex

    def set_batching(self, batching: Batching) -> None:
        """Take other settings of batches, for all models and those to come."""
        self._batching = batching
        for slot in self.slots.values():
            for model in (slot.active, *([slot.shadow.candidate] if slot.shadow else [])):
                model.queue.settings = batching

    async def swap(self, slot: ModelSlot, source: Source, *, force: bool = False) -> None:
        """Let another bundle answer, in every replica; `force` takes one that wants other requests, too.

        Raises:
            HttpError: 422, the bundle cannot be used; the old one goes on.
        """
        async with slot.lock:
            state = await self._newest(slot)
            await self._replace(slot, state, source, None if force else slot.active)

    async def roll_back(self, slot: ModelSlot) -> None:
        """Let the bundle before this one answer again (404 where there is none; else raises as `swap`)."""
        async with slot.lock:
            state = await self._newest(slot)
            if state.previous is None:
                raise HttpError(404, "no-earlier-bundle", f"No bundle of {slot.name!r} was replaced.")
            await self._replace(slot, state, state.previous)

    async def set_shadow(self, slot: ModelSlot, candidate: Candidate | None) -> None:
        """Put a bundle in the shadow, or take it away (raises as `swap`)."""
        async with slot.lock:
            state = await self._newest(slot)
            shadow = None
            if candidate is not None:
                loaded = await self._load(slot, state, candidate.source)
                shadow = Shadow(loaded, candidate.traffic)
                candidate = candidate.model_copy(update={"source": _pinned(candidate.source, loaded)})
            await self._apply(slot, state.changed(shadow=candidate, failure=None), shadow=shadow, write=True)

    async def tally(self, slot: ModelSlot) -> tuple[Shadow, Tally]:
        """Return the candidate of a slot and what all replicas saw of it (404 where there is none)."""
        if slot.shadow is None:
            raise HttpError(404, "no-shadow", f"{slot.name!r} has no shadow.")
        total = slot.shadow.tally
        if self._files is not None:
            kept = await asyncio.to_thread(self._files.read_tallies, slot.name, slot.compared)
            for replica, text in kept.items():
                total = total if replica == self._replica else total.plus(Tally.model_validate_json(text))
        return slot.shadow, total

    async def follow(self) -> None:
        """Follow the other replicas until cancelled."""
        while True:
            for slot in self.slots.values():
                try:
                    await self.look(slot)
                except Exception:
                    logger.exception("Cannot look for changes of %r", slot.name)
            await asyncio.sleep(FOLLOW_SECONDS)

    async def look(self, slot: ModelSlot) -> None:
        """Follow the other replicas once, and tell them what the shadow saw."""
        if self._files is None:
            return
        async with slot.lock:
            state = await self._read(self._files, slot)
            now = time.monotonic()
            wanted = state is not None and state.generation != slot.state.generation
            if state is not None and wanted and (slot.tried[0] != state.generation or now >= slot.tried[1]):
                slot.tried = (state.generation, now + RETRY_SECONDS)
                try:
                    await self._apply(slot, state)
                except ChangeNetError as error:
                    slot.failure = str(error)
                    logger.error("%r stays at version %s: %s", slot.name, slot.active.version, error)
            if slot.shadow is not None and slot.shadow.unsaved:
                slot.shadow.unsaved = False
                compared, text = slot.compared, slot.shadow.tally.model_dump_json()
                await asyncio.to_thread(self._files.write_tally, slot.name, compared, self._replica, text)

    async def _newest(self, slot: ModelSlot) -> ModelState:
        if self._files is None:
            detail = (
                "Models cannot be changed: the service was started without goldens_dir, where replicas tell each other."
            )
            raise HttpError(404, "no-registry", detail)
        state = await self._read(self._files, slot)
        return state if state is not None and state.configured == slot.state.configured else slot.state

    async def _read(self, files: StateFiles, slot: ModelSlot) -> ModelState | None:
        """Return what is written about a model; a damaged file changes nothing, and the next change replaces it."""
        try:
            return await asyncio.to_thread(files.read, slot.name)
        except DataError as error:
            slot.failure = str(error)
            return None

    async def _replace(
        self, slot: ModelSlot, state: ModelState, source: Source, like: ServedModel | None = None
    ) -> None:
        loaded = await self._load(slot, state, source, like)
        before: Source | None = state.active if state.active.version else _pinned(state.active, slot.active)
        # This replica may not have followed another one's change yet; then the written state says what answers.
        followed = state.generation == slot.state.generation
        if loaded.identity == slot.active.identity if followed else _pinned(source, loaded) == state.active:
            before = state.previous  # asked for twice: there is still the one before to go back to
        state = state.changed(active=_pinned(source, loaded), previous=before, failure=None)
        await self._apply(slot, state, active=loaded, write=True)

    async def _load(
        self, slot: ModelSlot, state: ModelState, source: Source, like: ServedModel | None = None
    ) -> ServedModel:
        """Load a bundle that takes the requests of another model; where that fails, every replica learns of it."""
        try:
            loaded: ServedModel = await asyncio.to_thread(self._load_now, slot.name, source)
            if like is not None:
                _fits(loaded, like)
            return loaded
        except ChangeNetError as error:
            state = state.failed(source.bundle, str(error))
            if self._files is not None:
                await asyncio.to_thread(self._files.write, slot.name, state)
            slot.state = slot.state.model_copy(update={"failure": state.failure})
            _refuse(error)

    async def _apply(
        self,
        slot: ModelSlot,
        state: ModelState,
        *,
        active: ServedModel | None = None,
        shadow: Shadow | None = None,
        write: bool = False,
    ) -> None:
        """Load what is new in a state and not given, tell the others, and take over."""
        old = [slot.active, *([slot.shadow.candidate] if slot.shadow else [])]
        if active is None:
            same = state.active == slot.state.active
            active = slot.active if same else await asyncio.to_thread(self._load_now, slot.name, state.active)
        if shadow is None and state.shadow is not None:
            if slot.shadow is not None and state.shadow == slot.state.shadow:
                # Beside another model it begins to count anew.
                shadow = slot.shadow if active is slot.active else Shadow(slot.shadow.candidate, state.shadow.traffic)
            else:
                loaded = await asyncio.to_thread(self._load_now, slot.name, state.shadow.source)
                shadow = Shadow(loaded, state.shadow.traffic)
        if write and self._files is not None:
            await asyncio.to_thread(self._files.write, slot.name, state)
        slot.take_over(state, active, shadow)
        kept = {id(active), id(shadow.candidate) if shadow else 0}
        for model in (active, *([shadow.candidate] if shadow else [])):
            model.queue.settings = self._batching
        for model in old:
            if id(model) not in kept:
                asyncio.get_running_loop().call_later(self._close_after, model.queue.close)


def _fits(loaded: ServedModel, before: ServedModel) -> None:
    """Refuse a model that refuses what clients send to the one before it."""
    new, old = loaded.inspector.description, before.inspector.description
    if set(new.layout.lights) == set(old.layout.lights) and new.num_golden >= old.num_golden:
        return
    loaded.queue.close()
    lights, goldens = ", ".join(map(repr, new.layout.lights)), new.num_golden
    raise CheckpointError(
        f"compares the lights {lights} and up to {goldens} goldens: clients of {before.version!r} would be refused",
        fix='Say "force": true where all clients change too.',
    )


def _pinned(source: Source, loaded: ServedModel) -> Source:
    return source.model_copy(update={"version": loaded.version})


def _refuse(error: ChangeNetError) -> NoReturn:
    problems = [str(problem) for problem in error.problems]
    raise HttpError(422, "bundle-refused", " ".join(problems), problems=problems) from error
