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
PassphraseVariable = Annotated[
    str | None,
    typer.Option("--key-env", metavar="NAME", help="Environment variable with the passphrase (default CHANGENET_KEY)."),
]
PassphraseFile = Annotated[
    str | None, typer.Option("--key-file", help="File with the passphrase, on one line.", show_default=False)
]
TrustedKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--trusted-key", metavar="FILE", help="Public key that must have signed the bundles; repeat it for several."
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew; an earlier run is set aside, not deleted.")]
