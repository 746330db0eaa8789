"""One name that clients use, and the loaded models behind it."""

from __future__ import annotations

import asyncio

from serve.inspector import ServedModel
from serve.model_state import ModelState
from serve.shadow import Shadow


class ModelSlot:
    """One name, the model that answers for it, and perhaps a candidate in its shadow.

    Args:
        active: The model that answers.
        state: What it is meant to be; a generation of -1 is made good as soon as possible.
        shadow: The candidate.
        failure: Why this replica is behind its state.
    """

    def __init__(
        self, active: ServedModel, state: ModelState, *, shadow: Shadow | None = None, failure: str | None = None
    ) -> None:
        self.name = active.name
        self.active = active
        self.state = state
        self.shadow = shadow
        self.failure = failure
        self.lock = asyncio.Lock()
        self.tried: tuple[int, float] = (state.generation, 0.0)
        active.observer = shadow.offer if shadow else None

    @property
    def compared(self) -> str:
        """Names what the shadow counts: both models, and since when."""
        assert self.shadow is not None
        run = self.state.shadow.run if self.state.shadow else ""
        return ".".join(filter(None, (self.active.identity, self.shadow.candidate.identity, run)))

    def take_over(self, state: ModelState, active: ServedModel, shadow: Shadow | None) -> None:
        """Let the next request meet other models; requests under way end with the ones they began with."""
        self.active.observer = None
        active.observer = shadow.offer if shadow else None
        self.active, self.state, self.shadow, self.failure = active, state, shadow, None
