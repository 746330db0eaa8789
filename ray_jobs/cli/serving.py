"""The verbs `serve` and `serve build`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ray_jobs.cli.group import finish
from ray_jobs.cli.options import SPEC_FLAGS, Address, Overrides, PassphraseFile, TrustedKeys

app = typer.Typer()

Models = Annotated[list[str] | None, typer.Option("--model", metavar="NAME=BUNDLE", help="A model to serve.")]
Spec = Annotated[str | None, typer.Option(*SPEC_FLAGS, help="Experiment spec with a serve section.")]
Host = Annotated[
    str | None, typer.Option(help="Interface to listen on (default 127.0.0.1; 0.0.0.0 = all).", show_default=False)
]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Port (default 8000).", show_default=False)]
Keys = Annotated[
    str | None,
    typer.Option("--keys", metavar="FILE", help="API keys (changenet api-key): every request then needs one."),
]
TlsCertificate = Annotated[str | None, typer.Option(metavar="FILE", help="Certificate (PEM) for HTTPS.")]
TlsKey = Annotated[str | None, typer.Option(metavar="FILE", help="Private key (PEM) of the certificate.")]


@app.command()
def serve(
    models: Models = None,
    spec: Spec = None,
    overrides: Overrides = None,
    host: Host = None,
    port: Port = None,
    address: Address = None,
    trusted_keys: TrustedKeys = None,
    keys_file: Keys = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable with the passphrase of encrypted bundles.")
    ] = None,
    key_file: PassphraseFile = None,
    proxy: Annotated[
        Literal["auto", "haproxy", "ray"] | None,
        typer.Option(help="In front of the replicas (default auto).", show_default=False),
    ] = None,
) -> None:
    """Serve bundles over HTTP with Ray Serve; the inspection page is at /.

    Encrypted bundles take the passphrase of a spec (encryption_key), or --key-env
    or --key-file. changenet serve build writes the same service as a config file instead.
    """
    from ray_jobs import serve as verb

    code = verb.run(
        spec=spec,
        models=models or (),
        overrides=overrides or (),
        host=host,
        port=port,
        address=address,
        trusted_keys=trusted_keys or (),
        keys_file=keys_file,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        key_env=key_env,
        key_file=key_file,
        proxy=proxy,
    )
    finish(code)


@app.command("serve build")
def serve_build(
    models: Models = None,
    spec: Spec = None,
    overrides: Overrides = None,
    host: Host = None,
    port: Port = None,
    trusted_keys: TrustedKeys = None,
    keys_file: Keys = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    out: Annotated[str | None, typer.Option(help="File to write (default: stdout).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
) -> None:
    """Write the same service as a config file: for Ray's own serve deploy, and for a RayService of Kubernetes.

    changenet serve build -e spec.yaml --host 0.0.0.0 --out serve.yaml
    """
    from ray_jobs import serve_build as verb

    code = verb.run(
        out,
        overwrite=overwrite,
        spec=spec,
        models=models or (),
        overrides=overrides or (),
        host=host,
        port=port,
        trusted_keys=trusted_keys or (),
        keys_file=keys_file,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
    )
    finish(code)
