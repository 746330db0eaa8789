"""Encrypts what was written in the clear, and back: a model file, or the model files of a bundle with its manifest."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from changenet import encryption, storage
from changenet.bundle import is_bundle, read_bundle, write_bundle
from changenet.engines.tensorrt_files import is_engine_file, note_of, renew_note
from changenet.errors import CheckpointError, Problem
from changenet.signing import SIGNATURE
from changenet.storage import sha256


@dataclass(frozen=True)
class Resealed:
    """What was written.

    Args:
        target: The file or the bundle.
        files: Its model files.
        size: Of them, in bytes.
        signature_lost: The bundle was signed; it has other files now, so it must be signed again.
    """

    target: str
    files: int
    size: int
    signature_lost: bool = False


def seal(source: str, passphrase: str, *, target: str | None = None, overwrite: bool = False) -> Resealed:
    """Encrypt a model file or every model file of a bundle.

    The target is written atomically. The bundle's pictures for the self-test and its manifest stay readable.

    Args:
        source: A file of any kind or a bundle folder; path or URI. Links are followed.
        passphrase: Not empty.
        target: Where to write; None = in the place of the source.
        overwrite: Replace what is there; without it nothing ever is.

    Raises:
        CheckpointError: No such file, encrypted already, a file of a bundle, a damaged bundle, or the target exists.
    """
    return _reseal(source, passphrase, target=target, overwrite=overwrite, encrypt=True)


def unseal(source: str, passphrase: str, *, target: str | None = None, overwrite: bool = False) -> Resealed:
    """Write what `seal` encrypted in the clear, once all of it has been verified (arguments as `seal`).

    Raises:
        CheckpointError: As `seal`; not encrypted, another passphrase, or damaged.
    """
    return _reseal(source, passphrase, target=target, overwrite=overwrite, encrypt=False)


def _reseal(source: str, passphrase: str, *, target: str | None, overwrite: bool, encrypt: bool) -> Resealed:
    source = behind_links(source)
    target = source if target is None else behind_links(target)
    whole = is_bundle(source)
    if not whole and is_bundle(parent := storage.parent(source)):
        what = "belongs to a bundle, whose manifest holds its SHA-256"
        raise CheckpointError(what, where=source, fix=f"Give the bundle: {parent}")
    replaced = [target, *([note_of(target)] if is_engine_file(source) else [])]
    if not overwrite and (there := [each for each in replaced if storage.exists(each)]):
        fix = "Add --overwrite to replace it, or --out FOLDER to write elsewhere."
        raise CheckpointError([Problem("exists", each, fix) for each in there])
    return (_reseal_bundle if whole else _reseal_file)(source, target, passphrase, encrypt=encrypt)


def _reseal_file(source: str, target: str, passphrase: str, *, encrypt: bool) -> Resealed:
    _check_state([encryption.is_sealed(source)], source, encrypt=encrypt)
    content = encryption.read_model(source, passphrase)
    size = content.getbuffer().nbytes
    engine = is_engine_file(source)
    with storage.or_as_before(*([target, note_of(target)] if engine else [])):
        with encryption.write_model(target, passphrase if encrypt else None) as file:
            shutil.copyfileobj(content, file)
        if engine:
            renew_note(target, source=source)
    return Resealed(target, 1, size)


def _reseal_bundle(source: str, target: str, passphrase: str, *, encrypt: bool) -> Resealed:
    bundle = read_bundle(source, encryption_key=passphrase)
    names = list(dict.fromkeys(name for engine in bundle.manifest.engines for name in engine.sha256))
    _check_state([encryption.is_sealed(storage.join(source, name)) for name in names], source, encrypt=encrypt)
    plain = {name: bundle.read(name) for name in names}
    stored = {name: encryption.seal(content, passphrase) for name, content in plain.items()} if encrypt else plain
    engines = tuple(
        replace(engine, sha256={name: sha256(stored[name]) for name in engine.sha256})
        for engine in bundle.manifest.engines
    )
    signed = storage.exists(storage.join(source, SIGNATURE))
    others = {name: bundle.read(name) for name in bundle.manifest.sha256 if name not in stored}
    write_bundle(target, replace(bundle.manifest, engines=engines), {**others, **stored}, overwrite=True)
    return Resealed(target, len(names), sum(map(len, plain.values())), signature_lost=signed)


def _check_state(sealed: list[bool], where: str, *, encrypt: bool) -> None:
    if encrypt and all(sealed):
        raise CheckpointError("is encrypted already", where=where, fix="Unseal it first to give it another passphrase.")
    if not encrypt and not any(sealed) and storage.exists(where):
        raise CheckpointError("is not encrypted", where=where, fix="There is nothing to do: use it as it is.")


def behind_links(path: str) -> str:
    """Return the file itself: writing in the place of a link would leave the file that it names as it was."""
    return path if storage.is_uri(path) else str(Path(path).resolve())
