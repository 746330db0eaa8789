"""Verbs before training: data sets and specs."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_jobs.cli.group import finish
from ray_jobs.cli.options import Overrides, Spec

app = typer.Typer()


@app.command()
def quickstart(
    out: Annotated[str, typer.Option(help="Folder for everything it makes.")] = "quickstart",
    seed: Annotated[int, typer.Option(help="The same seed gives the same boards and the same result.")] = 0,
) -> None:
    """Show the whole road on generated boards: sample, check, train, evaluate, inference, export, quantize, serve.

    What an earlier quickstart left in the folder is moved beside it, not
    deleted.
    """
    from ray_jobs import quickstart as verb

    finish(verb.run(out, seed=seed))


@app.command()
def sample(
    folder: Annotated[str, typer.Argument(help="Folder to write; new or empty.")],
    pairs: Annotated[int, typer.Option(min=40, help="Pairs in train, val, test and infer together.")] = 1000,
    lights: Annotated[int, typer.Option(min=1, max=4, help="Lights a picture.")] = 1,
    goldens: Annotated[int, typer.Option(min=1, max=16, help="Goldens a pair.")] = 1,
    size: Annotated[int, typer.Option(min=32, max=512, help="Square side of a light, in pixels.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
) -> None:
    """Write a generated data set of board pictures with its spec."""
    from ray_jobs import sample as verb

    finish(verb.run(folder, pairs=pairs, lights=lights, goldens=goldens, size=size, seed=seed))


@app.command()
def init(
    out: Annotated[str | None, typer.Option(help="File to write (default: stdout).")] = None,
    source: Annotated[str | None, typer.Option("--from", help="An old spec to bring into modern form.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
) -> None:
    """Write a commented default spec, or an old one in modern form."""
    from ray_jobs import init as verb

    finish(verb.run(out=out, source=source, overwrite=overwrite))


@app.command()
def check(
    spec: Spec,
    overrides: Overrides = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the findings as JSON (nothing when the spec itself is wrong).")
    ] = False,
) -> None:
    """Check the spec and every row and picture of its data sets, before any training."""
    from ray_jobs import check as verb

    finish(verb.run(spec, overrides or (), json_output=json))
