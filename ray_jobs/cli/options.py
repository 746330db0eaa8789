"""Options that several verbs take."""

from __future__ import annotations

from typing import Annotated

import typer

SPEC_FLAGS = ("-e", "--experiment-spec-file", "--experiment_spec_file")  # the last as TAO spells it
Spec = Annotated[str, typer.Option(*SPEC_FLAGS, help="Experiment spec (YAML, TAO's or ours).")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides of the spec; values in YAML: train.gpu_ids=[0,1]."),
]
Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster to run on, e.g. ray://head:10001 (default: RAY_ADDRESS, else a local Ray)."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew; an earlier run is set aside, not deleted.")]
