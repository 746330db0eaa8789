"""What was found wrong: counted by kind, with the first offenders kept, so that millions of them fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from changenet.data.kinds import Kind
from changenet.errors import DataError, Problem

KEPT = 1000
"""Offenders of a kind that are kept with their place; the rest is only counted."""
LISTED = 20
"""Offenders of a kind that an error's message lists; it counts the rest."""


class Findings:
    """Problems by kind, in the order of `Kind`."""

    def __init__(self) -> None:
        self._counts: dict[Kind, int] = {}
        self._first: dict[Kind, list[Problem]] = {}

    def add(self, kind: Kind, what: str, *, where: str = "", fix: str = "", count: int = 1) -> None:
        """Count a problem (or `count` of them, of which this is the first) and keep it while there is room."""
        self.add_many(kind, count, [Problem(what, where, fix)])

    def add_many(self, kind: Kind, count: int, problems: Iterable[Problem]) -> None:
        """Count `count` problems and keep the first of those given while there is room; no more are asked for."""
        if count:
            self._counts[kind] = self._counts.get(kind, 0) + count
            first = self._first.setdefault(kind, [])
            first.extend(islice(problems, KEPT - len(first)))

    def extend(self, other: Findings) -> None:
        """Add all that another collection holds."""
        for kind, count in other._counts.items():
            self.add_many(kind, count, other._first[kind])

    @property
    def counts(self) -> dict[Kind, int]:
        """How often each kind was found; kinds that were not are left out."""
        return {kind: self._counts[kind] for kind in Kind if kind in self._counts}

    @property
    def has_errors(self) -> bool:
        """Whether any of it is an error."""
        return any(kind.is_error for kind in self._counts)

    def first(self, kind: Kind) -> list[Problem]:
        """Return the first offenders of a kind, at most `KEPT`."""
        return self._first.get(kind, [])

    def errors(self) -> Iterator[Problem]:
        """Yield one problem a line for people: the first of each kind of error, then how many more there are."""
        return self._listed(errors=True)

    def warnings(self) -> Iterator[Problem]:
        """Yield warnings in the same way."""
        return self._listed(errors=False)

    def raise_errors(self) -> None:
        """Raise a `DataError` with all errors, if there are any."""
        if self.has_errors:
            raise DataError(self.errors())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            kind.value: {
                "severity": "error" if kind.is_error else "warning",
                "count": count,
                "first": [{"where": p.where, "what": p.what, "fix": p.fix} for p in self.first(kind)],
            }
            for kind, count in self.counts.items()
        }

    def _listed(self, *, errors: bool) -> Iterator[Problem]:
        for kind, count in self.counts.items():
            if kind.is_error == errors:
                yield from self.first(kind)[:LISTED]
                if count > LISTED:
                    yield Problem(f"{count - LISTED} more of this kind ({kind.words})")
