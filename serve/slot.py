"""One name that clients use, what its models are meant to be, and those that this replica has loaded."""

from __future__ import annotations

import asyncio

from serve.inspector import ServedModel
from serve.model_state import ModelState
from serve.settings import Source
from serve.shadow import Shadow


class ModelSlot:
    """One name, the model that answers for it, and perhaps a candidate in its shadow.

    Args:
        active: The model that answers.
        state: What is wanted, as this replica last heard.
        source: What `active` was loaded from; None: what is wanted.
        shadow: The candidate.
        behind: Why this replica does not run what is wanted.
    """

    def __init__(
        self,
        active: ServedModel,
        state: ModelState,
        *,
        source: Source | None = None,
        shadow: Shadow | None = None,
        behind: str | None = None,
    ) -> None:
        self.name = active.name
        self.active = active
        self.state = state
        self.source = source or state.active
        self.shadow = shadow
        self.behind = behind
        self.retry_at = 0.0
        self.trying: str | None = None
        self.lock = asyncio.Lock()
        active.observer = shadow.offer if shadow else None

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """All that is loaded."""
        return (self.active, self.shadow.candidate) if self.shadow else (self.active,)

    def take_over(self, active: ServedModel, source: Source, shadow: Shadow | None) -> list[ServedModel]:
        """Let the next request meet other models; return those that only requests under way still use."""
        before = self.models
        if self.shadow is not None and self.shadow is not shadow:
            self.shadow.stop()
        self.active.observer = None
        active.observer = shadow.offer if shadow else None
        self.active, self.source, self.shadow = active, source, shadow
        gone = [model for model in before if model not in self.models]
        for model in gone:
            if model.version != active.version:
                model.shared.metrics.retired(model.name, model.version)
        return gone
