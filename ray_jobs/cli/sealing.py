"""Verbs for passphrases, keys and signatures."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_jobs.cli.group import finish
from ray_jobs.cli.options import PassphraseFile, PassphraseVariable, TrustedKeys

app = typer.Typer()

ModelFiles = Annotated[list[str], typer.Argument(metavar="FILE...", help="Checkpoints, ONNX files, bundle folders.")]
OutFolder = Annotated[str | None, typer.Option("--out", help="Folder to write to, under the same names.")]
InPlace = Annotated[bool, typer.Option("--overwrite", help="Replace files; without --out those that are read.")]


@app.command()
def seal(
    files: ModelFiles,
    key_env: PassphraseVariable = None,
    key_file: PassphraseFile = None,
    out: OutFolder = None,
    overwrite: InPlace = False,
) -> None:
    """Encrypt model files that were written in the clear: checkpoints, ONNX files, whole bundles.

    The result is what encryption_key in a spec writes and opens. A passphrase
    on a command line would stay in the shell's history, so it comes from an
    environment variable or a file. There is no way back without it.

    CHANGENET_KEY=... changenet seal --overwrite results/export/bundle
    """
    from ray_jobs import seal as verb

    finish(verb.run(files, key_env=key_env, key_file=key_file, folder=out, overwrite=overwrite))


@app.command()
def unseal(
    files: ModelFiles,
    key_env: PassphraseVariable = None,
    key_file: PassphraseFile = None,
    out: OutFolder = None,
    overwrite: InPlace = False,
) -> None:
    """Write encrypted model files in the clear."""
    from ray_jobs import seal as verb

    finish(verb.run(files, key_env=key_env, key_file=key_file, folder=out, overwrite=overwrite, encrypt=False))


@app.command()
def keys(path: Annotated[str, typer.Argument(metavar="FILE", help="Private key; FILE.pub is the public one.")]) -> None:
    """Make a pair of keys: bundles are signed with the private one, the public one says whether to trust them."""
    from ray_jobs import sign as verb

    finish(verb.make_keys(path))


@app.command()
def sign(
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Bundle folders.")],
    key_file: Annotated[
        str, typer.Option("--key-file", help="Private key (PEM, Ed25519), as changenet keys makes it.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier signature.")] = False,
) -> None:
    """Sign bundles: changenet serve --trusted-key FILE.pub then serves no others.

    The signature, BUNDLE/manifest.sig, covers every file of the bundle. Sign
    last: seal, unseal and export --overwrite write other files, and drop it.
    """
    from ray_jobs import sign as verb

    finish(verb.run(bundles, key_file=key_file, overwrite=overwrite))


@app.command()
def verify(
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Bundle folders.")],
    trusted_keys: TrustedKeys = None,
) -> None:
    """Say whether bundles are whole, and with --trusted-key whether one of these keys signed them.

    Every file is held against the manifest; encrypted ones need no passphrase.
    """
    from ray_jobs import sign as verb

    finish(verb.verify(bundles, trusted_keys=trusted_keys or ()))


@app.command("api-key")
def api_key(
    file: Annotated[str, typer.Argument(metavar="FILE", help="File of keys: serve.keys_file, changenet serve --keys.")],
    name: Annotated[str, typer.Argument(help="Whose key it is; shown in the log.")],
    admin: Annotated[bool, typer.Option("--admin", help="Also for what changes the service.")] = False,
) -> None:
    """Make an API key for the service and show it once; FILE gets its hash.

    A service reads FILE again when it changes: a new line lets somebody in, a
    line less locks somebody out, without a restart.

    changenet api-key keys.txt line-3
    """
    from ray_jobs import api_key as verb

    finish(verb.run(file, name, admin=admin))
