"""What a look at the whole experiment found: contradictions, and values that do not do what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A contradiction.

    Args:
        keys: The keys it is about; the first is the one that is reported.
        what: What is wrong, with the value.
        fix: What to do.
    """

    keys: tuple[str, ...]
    what: str
    fix: str


@dataclass(frozen=True)
class Notice:
    """Something that the spec says and that does not happen as written.

    Args:
        path: The key or section.
        message: What happens instead.
        remedy: What the spec would say without the notice: values by key, None = leave it out; empty where the value
            has to stay.
    """

    path: str
    message: str
    remedy: dict[str, Any]
