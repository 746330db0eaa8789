"""Signatures of bundles: they come from whoever holds the private key, and nothing in them was changed since.

The signature (Ed25519) is over the bytes of `manifest.json`, which holds the SHA-256 of every other file, so it covers
the whole bundle. It lies beside the manifest in `manifest.sig`. Keys are PEM files, as openssl writes them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from changenet import storage
from changenet.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE = "manifest.sig"
FORMAT = "changenet-signature"
FORMAT_VERSION = 1
PUBLIC_SUFFIX = ".pub"
_PUBLIC_BEGINS = "-----BEGIN PUBLIC KEY-----"
_MAKE = "Make a pair with changenet keys FILE."

KeySource: TypeAlias = str | os.PathLike[str]
"""A public key: a PEM file (path or URI), or its text."""


def make_key_pair(path: str) -> str:
    """Write a private key, readable by its owner alone, and the public one beside it; return the fingerprint.

    Args:
        path: Local file of the private key; the public key is `path` + `.pub`. Neither is ever replaced.

    Raises:
        CheckpointError: One of them exists, or the folder cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    if storage.is_uri(path):
        raise CheckpointError("is a URI", where=path, fix="Keep the private key in a file of this machine.")
    for name in (path, path + PUBLIC_SUFFIX):
        if storage.exists(name):
            raise CheckpointError("exists", where=name, fix="Keys are never replaced: choose another name.")
    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        storage.write_text(path + PUBLIC_SUFFIX, public_text(key.public_key()))
    except OSError as error:
        raise CheckpointError(
            f"cannot be written ({error.strerror})", where=path, fix="Choose another place."
        ) from error
    return fingerprint(key.public_key())


def sign(folder: str | os.PathLike[str], manifest: bytes, private_key: str, *, overwrite: bool = False) -> str:
    """Write the signature of a bundle and return the fingerprint of the key.

    Args:
        folder: Of the bundle: path or URI. The caller has verified the files that the manifest lists.
        manifest: The content of its `manifest.json`.
        private_key: PEM file of an Ed25519 key without a passphrase.
        overwrite: Replace an earlier signature.

    Raises:
        CheckpointError: The key cannot be used, or the bundle is signed already.
    """
    key = _read_private_key(private_key)
    where = storage.join(folder, SIGNATURE)
    if not overwrite and storage.exists(where):
        raise CheckpointError("is signed already", where=str(folder), fix="Add --overwrite to replace the signature.")
    mark = fingerprint(key.public_key())
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "algorithm": "ed25519",
        "key": mark,
        "signature": base64.b64encode(key.sign(manifest)).decode("ascii"),
    }
    storage.write_text(where, json.dumps(content, indent=2) + "\n")
    return mark


def verify(folder: str | os.PathLike[str], manifest: bytes, trusted_keys: Sequence[KeySource]) -> None:
    """Make sure that one of the trusted keys signed this manifest.

    Args:
        folder: Of the bundle: path or URI.
        manifest: The content of its `manifest.json`, as it will be used.
        trusted_keys: Public keys.

    Raises:
        CheckpointError: No signature, one of another key, or the manifest is not the one that was signed; or a trusted
            key cannot be read.
    """
    from cryptography.exceptions import InvalidSignature

    trusted = {fingerprint(key): key for key in map(read_public_key, trusted_keys)}
    where = storage.join(folder, SIGNATURE)
    try:
        stored = storage.read_bytes(where)
    except DataError as error:
        fix = "Sign it where the private key is: changenet sign BUNDLE --key-file KEY."
        raise CheckpointError("is not signed, and a signature is demanded", where=str(folder), fix=fix) from error
    mark, signature = _read_signature(stored, where)
    if mark not in trusted:
        fix = "Give the public key of those who sign, or have the bundle signed again."
        what = f"signed with the key {mark}, which is not trusted here (trusted: {', '.join(trusted)})"
        raise CheckpointError(what, where=where, fix=fix)
    try:
        trusted[mark].verify(signature, manifest)
    except InvalidSignature as error:
        fix = "Copy the whole folder again from where it was signed."
        raise CheckpointError("the manifest is not the one that was signed", where=str(folder), fix=fix) from error


def read_public_key(source: KeySource) -> Ed25519PublicKey:
    """Return a public key.

    Raises:
        CheckpointError: There is no such file, or it holds something else.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    given = str(source).strip()
    where = "trusted key" if given.startswith(_PUBLIC_BEGINS) else str(source)
    content = given.encode() if given.startswith(_PUBLIC_BEGINS) else _read(where)
    if b"PRIVATE KEY" in content:
        fix = f"Give the public key, FILE{PUBLIC_SUFFIX}, and keep this one where bundles are signed."
        raise CheckpointError("is a private key", where=where, fix=fix)
    try:
        key: Any = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CheckpointError("is not a public key in PEM form", where=where, fix=_MAKE) from error
    if not isinstance(key, Ed25519PublicKey):
        raise CheckpointError("is not an Ed25519 key", where=where, fix=_MAKE)
    return key


def public_text(key: Ed25519PublicKey) -> str:
    """Return a public key as PEM, which `read_public_key` takes."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return sixteen hexadecimal digits that name a key to people: the beginning of its SHA-256."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _read_private_key(path: str) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _read(path)
    if b"PUBLIC KEY" in content:
        raise CheckpointError("is a public key", where=path, fix=f"Sign with the private one, without {PUBLIC_SUFFIX}.")
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError as error:
        raise CheckpointError("is a key with a passphrase", where=path, fix="Give one without.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CheckpointError("is not a private key in PEM form", where=path, fix=_MAKE) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CheckpointError("is not an Ed25519 key", where=path, fix=_MAKE)
    return key


def _read(path: str) -> bytes:
    try:
        return storage.read_bytes(path)
    except DataError as error:
        raise CheckpointError("there is no such key file", where=path, fix="Check the path.") from error
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error})", where=path, fix="Check it.") from error


def _read_signature(content: bytes, where: str) -> tuple[str, bytes]:
    """Return the fingerprint of the key and the signature."""
    fix = "Sign the bundle again."
    try:
        values = json.loads(content)
        if values["format"] != FORMAT:
            raise CheckpointError("is no signature of a bundle", where=where, fix=fix)
        if values["format_version"] > FORMAT_VERSION:
            what = f"written in format version {values['format_version']}; this program reads up to {FORMAT_VERSION}"
            raise CheckpointError(what, where=where, fix="Upgrade changenet.")
        return str(values["key"]), base64.b64decode(values["signature"], validate=True)
    except (ValueError, TypeError, KeyError, binascii.Error) as error:
        raise CheckpointError("is damaged", where=where, fix=fix) from error
