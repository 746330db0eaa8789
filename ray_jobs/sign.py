"""`changenet keys`, `sign` and `verify`: who may vouch for bundles, and that somebody does. Needs no Ray."""

from __future__ import annotations

from collections.abc import Sequence

from changenet import signing, storage
from changenet.bundle import MANIFEST, read_bundle
from changenet.errors import CheckpointError, Problem
from ray_jobs.console import out


def make_keys(path: str) -> int:
    """Write a private key and, as `path` + `.pub`, its public one (raises as `signing.make_key_pair`)."""
    mark = signing.make_key_pair(path)
    for line in (
        f"Key {mark}",
        f"  private  {path}: signs bundles; keep it secret, there is no copy",
        f"  public   {path}{signing.PUBLIC_SUFFIX}: for changenet serve --trusted-key and changenet.load",
    ):
        out.print(line, soft_wrap=True)
    return 0


def run(bundles: Sequence[str], *, key_file: str, overwrite: bool = False) -> int:
    """Sign bundles whose files are those that their manifests list.

    Args:
        bundles: Folders: paths or URIs; encrypted ones need no passphrase.
        key_file: The private key.
        overwrite: Replace earlier signatures.

    Raises:
        CheckpointError: The key cannot be used, or what is wrong with bundles, all at once. The others are signed.
    """
    problems: list[Problem] = []
    for folder in bundles:
        try:
            bundle = read_bundle(folder)
            manifest = storage.read_bytes(storage.join(folder, MANIFEST))
            mark = signing.sign(folder, manifest, key_file, overwrite=overwrite)
        except CheckpointError as error:
            problems += [problem for problem in error.problems if problem not in problems]
        else:
            out.print(f"Signed {folder} (version {bundle.version}) with the key {mark}", soft_wrap=True)
    if problems:
        raise CheckpointError(problems)
    return 0


def verify(bundles: Sequence[str], *, trusted_keys: Sequence[str] = ()) -> int:
    """Make sure that bundles are what their manifests say, and, with keys, that one of these signed them.

    Args:
        bundles: Folders: paths or URIs; encrypted ones need no passphrase.
        trusted_keys: Files of public keys.

    Raises:
        CheckpointError: What is wrong with bundles, all at once.
    """
    problems: list[Problem] = []
    for folder in bundles:
        try:
            bundle = read_bundle(folder, trusted_keys=trusted_keys)
        except CheckpointError as error:
            problems += [problem for problem in error.problems if problem not in problems]
        else:
            signed = ""
            if trusted_keys:
                signed = " and signed by a trusted key"
            elif storage.exists(storage.join(folder, signing.SIGNATURE)):
                signed = "; it carries a signature, which --trusted-key FILE verifies"
            out.print(f"{folder} (version {bundle.version}) is whole{signed}", soft_wrap=True)
    if problems:
        raise CheckpointError(problems)
    return 0
