"""What a check of the whole experiment found."""

from __future__ import annotations

from dataclasses import dataclass


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
