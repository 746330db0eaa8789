"""Where one key of the spec is searched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

Kind = Literal["loguniform", "uniform", "int", "choice", "grid"]
KINDS: tuple[Kind, ...] = ("loguniform", "uniform", "int", "choice", "grid")
LISTS = ("choice", "grid")


@dataclass(frozen=True)
class Dimension:
    """A range with both ends, or a list.

    Args:
        kind: `loguniform`, `uniform` (numbers), `int` (whole numbers), `choice` or `grid` (a list).
        options: (low, high), or the values of the list.

    >>> Dimension.read("int", [1, 4]).probes
    (1, 4)
    """

    kind: Kind
    options: tuple[Any, ...]

    @staticmethod
    def read(kind: str, options: Any) -> Dimension:
        """Return what a sweep file writes as `{kind: options}`.

        Raises:
            ValueError: The options do not fit the kind.
        """
        if not isinstance(options, list):
            raise ValueError(f"{kind} is {options!r}: a list is needed")
        if kind in LISTS:
            if not options or any(options.count(option) > 1 for option in options):
                raise ValueError(f"{kind} is {options!r}: a list of different values is needed")
            return Dimension(cast("Kind", kind), tuple(options))
        wanted = int if kind == "int" else int | float
        numbers = all(isinstance(end, wanted) and not isinstance(end, bool) and math.isfinite(end) for end in options)
        if len(options) != 2 or not numbers or not options[0] < options[1]:
            what = "two whole numbers" if kind == "int" else "two numbers"
            raise ValueError(f"{kind} is {options!r}: {what} are needed, the lower one first")
        if kind == "loguniform" and options[0] <= 0:
            raise ValueError(f"loguniform begins at {options[0]!r}: a number above 0 is needed")
        ends = options if kind == "int" else map(float, options)
        return Dimension(cast("Kind", kind), tuple(ends))

    @property
    def listed(self) -> bool:
        """Whether it is a list of values."""
        return self.kind in LISTS

    @property
    def probes(self) -> tuple[Any, ...]:
        """The values to try on the spec: the whole list, or the ends of the range and a fraction between them."""
        if self.listed or self.kind == "int":
            return self.options
        low, high = self.options
        return low, high, low + (high - low) / math.pi

    def value(self, chosen: Any) -> Any:
        """Return the value that a search algorithm means: it chooses from a list by number."""
        return self.options[int(chosen)] if self.listed else chosen
