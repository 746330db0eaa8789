"""What becomes of a model's state when another bundle answers, and which bundles may."""

from __future__ import annotations

from changenet.errors import ChangeNetError, CheckpointError, DataError
from serve.inspector import ServedModel
from serve.model_state import ModelState
from serve.problems import HttpError
from serve.settings import Source
from serve.slot import ModelSlot


def replaced(slot: ModelSlot, state: ModelState, source: Source, loaded: ServedModel) -> ModelState:
    """Return the state in which a bundle answers; asked for twice, there is still the one before to go back to.

    Args:
        slot: As it is.
        state: What is wanted so far; the slot may not have followed it yet.
        source: Where the bundle is.
        loaded: What was loaded from there.
    """
    active, before = pinned(source, loaded), state.active
    if before == slot.source:
        before = pinned(before, slot.active)
        again = loaded.identity == slot.active.identity
    else:
        again = active == before
    return state.changed(active=active, previous=state.previous if again else before, failure=None)


def check_fits(loaded: ServedModel, before: ServedModel) -> None:
    """Refuse a model that refuses what clients send to the one before it.

    Raises:
        CheckpointError: It compares other lights, or fewer goldens.
    """
    new, old = loaded.inspector.description, before.inspector.description
    if set(new.layout.lights) == set(old.layout.lights) and new.num_golden >= old.num_golden:
        return
    lights, goldens = ", ".join(map(repr, new.layout.lights)), new.num_golden
    raise CheckpointError(
        f"compares the lights {lights} and up to {goldens} goldens: clients of {before.version!r} would be refused",
        fix='Say "force": true where all clients change too.',
    )


def pinned(source: Source, loaded: ServedModel) -> Source:
    """Return a source that takes no other version than the one that was loaded from it."""
    return source.model_copy(update={"version": loaded.version})


def refusal(error: ChangeNetError) -> HttpError:
    """Return the problem that tells a client why a bundle is not used."""
    problems = [str(problem) for problem in error.problems]
    return HttpError(422, "bundle-refused", " ".join(problems), problems=problems)


def text_of(error: DataError | HttpError) -> str:
    """Return what an error says, in one line."""
    return str(error.detail) if isinstance(error, HttpError) else str(error)
