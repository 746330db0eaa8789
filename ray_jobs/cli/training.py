"""Verbs that run on Ray: train, tune, evaluate, inference."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_jobs.cli.group import finish
from ray_jobs.cli.options import Address, Fresh, Overrides, Spec

app = typer.Typer()


@app.command()
def train(spec: Spec, overrides: Overrides = None, address: Address = None, fresh: Fresh = False) -> None:
    """Train a network with Ray Train; the same command again goes on where it stopped."""
    from ray_jobs import train as verb

    finish(verb.run(spec, overrides or (), address=address, fresh=fresh))


@app.command()
def tune(
    spec: Spec,
    sweep: Annotated[str, typer.Option("-s", "--sweep", help="Sweep file: which keys are searched, and how.")],
    overrides: Overrides = None,
    address: Address = None,
    fresh: Fresh = False,
) -> None:
    """Search the best values of spec keys with Ray Tune; the same command again goes on where it stopped.

    The sweep file names any keys of model, dataset and train with where to
    search them; specs/sweep.yaml is a commented example. Everything in it is
    tried on the spec before Ray starts. Each trial is a training run of its own
    in RESULTS/tune/trials.

    Leaves RESULTS/tune/best.yaml, a spec that trains as it is, trials.csv and
    report.html.

    changenet tune -e spec.yaml -s specs/sweep.yaml train.num_epochs=12
    """
    from ray_jobs import tune as verb

    finish(verb.run(spec, sweep, overrides or (), address=address, fresh=fresh))


@app.command()
def evaluate(spec: Spec, overrides: Overrides = None, address: Address = None) -> None:
    """Score the test set: metrics.json, evaluate.csv, report.html with plots."""
    from ray_jobs import evaluate as verb

    finish(verb.run(spec, overrides or (), address=address))


@app.command()
def inference(spec: Spec, overrides: Overrides = None, address: Address = None) -> None:
    """Decide PASS or FAIL for every row of the infer set: inference.csv."""
    from ray_jobs import inference as verb

    finish(verb.run(spec, overrides or (), address=address))
