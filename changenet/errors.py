"""The errors a user can mend: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: a single line for the person who can mend it.

    Args:
        what: What is wrong, with the offending value and what is allowed.
        where: File and row or key path, e.g. `train.csv:12` or `spec.yaml: train.optim.lr`.
        fix: What to do.
    """

    what: str
    where: str = ""
    fix: str = ""

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        line = f"{head.rstrip('.')}. {self.fix}" if self.fix else head
        return " ".join(line.split())


class ChangeNetError(Exception):
    """Base of the errors that the command line reports as one line a problem, and ends with their `exit_code`.

    >>> str(DataError("no such file", where="train.csv:3", fix="Check images_dir."))
    'train.csv:3: no such file. Check images_dir.'
    """

    exit_code: ClassVar[int] = 2  # the user's input is wrong

    def __init__(self, what: str | Iterable[Problem], *, where: str = "", fix: str = "") -> None:
        problems = (Problem(what, where, fix),) if isinstance(what, str) else tuple(what)
        super().__init__(problems)
        self.problems: tuple[Problem, ...] = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class SpecError(ChangeNetError):
    """The experiment spec, or an override of it, is wrong."""


class DataError(ChangeNetError):
    """A CSV file or a picture is wrong."""


class CheckpointError(ChangeNetError):
    """A checkpoint or a bundle is missing, damaged, locked, or does not fit."""


class EngineError(ChangeNetError):
    """An inference engine, or the package or device it needs, is not available here."""


class RunError(ChangeNetError):
    """What the user gave is right, and cannot be done all the same: the machine is overloaded, another run holds the folder."""

    exit_code = 1
