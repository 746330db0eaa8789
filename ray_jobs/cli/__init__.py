"""The command `changenet`: one verb a module of `ray_jobs`, imported when it runs, so `changenet --help` stays quick."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from changenet import __version__
from ray_jobs.cli import data, models, sealing, serving, training
from ray_jobs.cli.group import Verbs
from ray_jobs.cluster import ENVIRONMENT

HELP = """Compare pictures of circuit-board components with their golden pictures: train, evaluate, export and serve
Visual ChangeNet on Ray. `changenet quickstart` shows the whole road in a few minutes."""

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    epilog="Every verb with -e SPEC takes overrides: changenet train -e spec.yaml train.num_epochs=5 "
    "'dataset.classify.input_map={White: 0}'",
)
for verbs in (data, training, models, sealing, serving):  # in the order in which a user meets them
    app.add_typer(verbs.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback(help=HELP)
def options(
    version: Annotated[  # noqa: ARG001 - its callback has answered
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Read what every verb understands, before libraries look at the environment."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
