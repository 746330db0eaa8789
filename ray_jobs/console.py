"""How the command line talks to people: progress, warnings and errors on stderr, results on stdout."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

# Paths, labels and line numbers are shown as they are: [x] is no style and :100: no picture.
err = Console(stderr=True, markup=False, emoji=False, highlight=False)
out = Console(markup=False, emoji=False, highlight=False)


def progress() -> Progress:
    """Return a progress bar on stderr: description, bar, count, time gone and left.

    Example: `with progress() as bar: task = bar.add_task("Checking", total=n); bar.advance(task)`.
    """
    return Progress(
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
