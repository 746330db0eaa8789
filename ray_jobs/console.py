"""How the command line talks to people: progress, warnings and errors on stderr, results on stdout."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

# Paths, labels and line numbers are shown as they are: [x] is no style and :100: no picture.
err = Console(stderr=True, markup=False, emoji=False, highlight=False)
out = Console(markup=False, emoji=False, highlight=False)

LINE_EVERY = 60.0  # seconds

logger = logging.getLogger(__name__)


class _Progress(Progress):
    """A bar where people watch; where a log is kept, a line now and then."""

    _next_line = 0.0

    def start(self) -> None:
        super().start()
        self._next_line = time.monotonic() + LINE_EVERY

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._log(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._log(task_id)

    def _log(self, task_id: TaskID) -> None:
        task = self._tasks[task_id]
        if err.is_terminal or not task.total or time.monotonic() < self._next_line:
            return
        self._next_line = time.monotonic() + LINE_EVERY
        left = "" if task.time_remaining is None else f", {timedelta(seconds=int(task.time_remaining))} left"
        logger.info("%s: %d of %d%s", task.description, task.completed, task.total, left)


def progress() -> Progress:
    """Return a progress bar on stderr: description, bar, count, time gone and left. A log gets a line a minute instead.

    Example: `with progress() as bar: task = bar.add_task("Checking", total=n); bar.advance(task)`.
    """
    return _Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
    )


def result_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table of results, to be printed with `out.print`; every cell is shown as text."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    return table


def figure(value: float | None, *, digits: int = 6) -> str:
    """Return a figure for a cell of a table: to so many significant digits, whole numbers whole; nothing for None.

    >>> figure(0.12345678), figure(1234567), figure(None)
    ('0.123457', '1234567', '')
    """
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{float(value):.{digits}g}"


def set_up_logging(level: int = logging.INFO) -> None:
    """Show our own log records on stderr; other packages only from warning on."""
    if err.is_terminal:
        handler: logging.Handler = RichHandler(
            console=err, show_path=False, show_time=False, highlighter=NullHighlighter()
        )
        form = "%(message)s"
    else:  # a log or a script reads whole lines
        handler, form = logging.StreamHandler(), "%(levelname)s %(message)s"
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format=form, force=True)
    for package in ("changenet", "ray_jobs", "serve"):
        logging.getLogger(package).setLevel(level)
