"""The verb `serve`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from ray_jobs.cli.group import finish
from ray_jobs.cli.options import Address, Overrides

app = typer.Typer()


@app.command()
def serve(
    model: Annotated[list[str] | None, typer.Option(metavar="NAME=BUNDLE", help="A model to serve.")] = None,
    spec: Annotated[
        str | None, typer.Option("-e", "--experiment-spec-file", help="Experiment spec with a serve section.")
    ] = None,
    overrides: Overrides = None,
    host: Annotated[
        str | None, typer.Option(help="Interface to listen on (default 127.0.0.1; 0.0.0.0 = all).", show_default=False)
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port (default 8000).", show_default=False)] = None,
    address: Address = None,
    trusted_key: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Public key that must have signed the bundles; repeat it for several."),
    ] = None,
    keys: Annotated[
        str | None, typer.Option(metavar="FILE", help="API keys (changenet api-key): every request then needs one.")
    ] = None,
    tls_certificate: Annotated[str | None, typer.Option(metavar="FILE", help="Certificate (PEM) for HTTPS.")] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="Private key (PEM) of the certificate.")] = None,
    proxy: Annotated[
        Literal["auto", "haproxy", "ray"] | None,
        typer.Option(help="In front of the replicas (default auto).", show_default=False),
    ] = None,
    out: Annotated[str | None, typer.Option(help="With build: file to write (default: stdout).")] = None,
) -> None:
    """Serve bundles over HTTP with Ray Serve; the inspection page is at /.

    changenet serve build writes the same service as a config file instead,
    for Ray's own command serve deploy and for a RayService.

    changenet serve build -e spec.yaml --out serve.yaml
    """
    given: dict[str, Any] = {
        "spec": spec,
        "models": model or (),
        "overrides": overrides or (),
        "host": host,
        "port": port,
        "trusted_keys": trusted_key or (),
        "keys_file": keys,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "proxy": proxy,
    }
    if overrides and overrides[0] == "build":
        from ray_jobs import serve_build

        finish(serve_build.run(given | {"overrides": overrides[1:]}, out))
        return
    from ray_jobs import serve as verb

    finish(verb.run(address=address, **given))
