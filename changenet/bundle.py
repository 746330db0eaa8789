"""A bundle: the folder that serving needs, and nothing else.

`manifest.json` says what the graphs beside it decide, how pictures become their input, and the SHA-256 of every file.
A bundle is written as a whole or not at all, and nothing in it is used before it was verified. docs/bundle.md lists
the fields.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from changenet import encryption, signing, storage
from changenet.errors import CheckpointError, DataError, Problem
from changenet.manifest import FORMAT, FORMAT_VERSION, SELFTEST, EngineEntry, Manifest
from changenet.storage import sha256

MANIFEST = "manifest.json"
WEIGHTS = "weights.data"  # of graphs that are too large for one ONNX file
_AGAIN = "Export it again, or copy the whole folder again."


class SelfTest(NamedTuple):
    """Pairs of noise and the scores they must give.

    `test` uint8 (B, 3, H, W), `golden` the same or (B, N, 3, H, W) with several goldens, `scores` float32 (B,).
    """

    test: NDArray[np.uint8]
    golden: NDArray[np.uint8]
    scores: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """Return the content of `selftest.npz`."""
        buffer = io.BytesIO()
        np.savez(buffer, **self._asdict())
        return buffer.getvalue()


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have been verified.

    Args:
        folder: Path or URI.
        manifest: What it says.
        encryption_key: Opens its model files, where they are encrypted.
    """

    folder: str
    manifest: Manifest
    encryption_key: str | None = field(default=None, repr=False)

    @cached_property
    def version(self) -> str:
        """Twelve hexadecimal digits that change with the weights, the preprocessing or the threshold.

        Not with engines that were built from the bundle and added to it.
        """
        values = self.manifest.to_dict()
        values["engines"] = values["engines"][:1]
        return sha256(json.dumps(values, sort_keys=True).encode())[:12]

    @property
    def encrypted(self) -> bool:
        """Whether the model files are encrypted."""
        return any(encryption.is_sealed(storage.join(self.folder, name)) for name in self.manifest.engines[0].sha256)

    def has(self, name: str) -> bool:
        """Say whether the bundle holds a file of that name."""
        return name in self.manifest.sha256

    def read(self, name: str) -> bytes:
        """Return the verified content of one file, decrypted in memory.

        Raises:
            CheckpointError: The file is missing, was changed, or the key is missing or wrong.
            KeyError: There is none of that name.
        """
        stored = _stored(self.folder, name, self.manifest.sha256[name])
        if not encryption.is_sealed(stored):
            return stored
        return encryption.unseal(stored, self.encryption_key, where=storage.join(self.folder, name))

    def selftest(self) -> SelfTest:
        """Return the stored pairs and the scores they must give."""
        with np.load(io.BytesIO(self.read(SELFTEST)), allow_pickle=False) as arrays:
            return SelfTest(**{name: arrays[name] for name in SelfTest._fields})


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Say whether `path` (or URI) is a folder with a manifest."""
    return storage.exists(storage.join(path, MANIFEST))


def read_bundle(
    folder: str | os.PathLike[str],
    *,
    encryption_key: str | None = None,
    trusted_keys: Sequence[signing.KeySource] = (),
) -> Bundle:
    """Open a bundle and verify every file of it.

    Args:
        folder: Path or URI.
        encryption_key: Opens its model files, where they are encrypted.
        trusted_keys: Public keys; one of them must have signed the bundle. Without any a signature is not looked at.

    Raises:
        CheckpointError: No bundle, a newer format, no signature of a trusted key, or files that are missing, not the ones
            that were written, or (in a local folder) not listed in the manifest: one problem a file.
    """
    folder = str(folder)
    where = storage.join(folder, MANIFEST)
    try:
        text = storage.read_bytes(where)
    except DataError as error:
        what = "no manifest.json: not a bundle" if storage.exists(folder) else "no such folder"
        raise CheckpointError(what, where=folder, fix="Give the folder that changenet export wrote.") from error
    if trusted_keys:
        signing.verify(folder, text, trusted_keys)
    try:
        values = json.loads(text)
        if values.get("format") != FORMAT:
            raise CheckpointError("not the manifest of a bundle", where=where, fix="Give the folder `export` wrote.")
        version = values["format_version"]
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"written in format version {version}; this program reads up to {FORMAT_VERSION}",
                where=where,
                fix="Upgrade changenet.",
            )
        manifest = Manifest.from_dict(values)
    except (DataError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"damaged manifest ({type(error).__name__}: {error})", where=where, fix=_AGAIN) from error
    problems: list[Problem] = []
    for name, digest in manifest.sha256.items():
        try:
            _stored(folder, name, digest)
        except CheckpointError as error:
            problems += error.problems
    problems += [
        Problem("is not listed in the manifest", storage.join(folder, name), "Remove it, or export the bundle again.")
        for name in _unlisted(folder, manifest)
    ]
    if problems:
        raise CheckpointError(problems)
    return Bundle(folder, manifest, encryption_key)


def _unlisted(folder: str, manifest: Manifest) -> list[str]:
    """Return what else lies in a local folder, but hidden files, which file systems and desktops leave."""
    names = [] if storage.is_uri(folder) else storage.names_inside(folder)
    known = {*manifest.sha256, MANIFEST, signing.SIGNATURE}
    return [name for name in names if name not in known and not name.startswith(".")]


def _stored(folder: str, name: str, digest: str) -> bytes:
    where = storage.join(folder, name)
    if Path(name).name != name or name == ".." or "\\" in name:
        raise CheckpointError(f"the manifest names a file outside the bundle: {name!r}", where=folder, fix=_AGAIN)
    try:
        content = storage.read_bytes(where)
    except DataError as error:
        raise CheckpointError("a file of this bundle is missing", where=where, fix=_AGAIN) from error
    if sha256(content) != digest:
        raise CheckpointError("changed since it was written (SHA-256 differs)", where=where, fix=_AGAIN)
    return content


def write_bundle(
    folder: str | os.PathLike[str], manifest: Manifest, files: Mapping[str, bytes], *, overwrite: bool = False
) -> None:
    """Write a bundle: on a local disk all of it appears at once; behind a URI the manifest comes last.

    Args:
        folder: Path or URI.
        manifest: Its digests must be those of `files`.
        files: File name to content as it is stored (sealed already, if at all).
        overwrite: Replace an earlier bundle. A folder that is no bundle is never replaced.

    Raises:
        CheckpointError: The folder is there and may not be replaced.
    """
    assert {name: sha256(content) for name, content in files.items()} == manifest.sha256
    check_writable(folder, overwrite=overwrite)
    text = json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    everything = {**files, MANIFEST: text.encode("utf-8")}
    if storage.is_uri(folder):
        for name, content in everything.items():
            storage.write_bytes(storage.join(folder, name), content)
        for name in set(storage.names_inside(folder)) - set(everything):  # of the earlier one, its signature too
            storage.remove(storage.join(folder, name))
        return
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
        fresh, old = Path(temporary, "fresh"), Path(temporary, "old")
        for name, content in everything.items():
            storage.write_bytes(fresh / name, content)
        if target.exists():
            target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise


def add_engine(bundle: Bundle, entry: EngineEntry, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle anew with one more way to run it; one of the same name is replaced, and a signature is dropped.

    Args:
        bundle: In its folder.
        entry: Its digests must be those of `files`.
        files: File name to content as it is stored.

    Raises:
        CheckpointError: A file of the bundle is missing or was changed.
    """
    others = tuple(each for each in bundle.manifest.engines if each.name != entry.name)
    manifest = replace(bundle.manifest, engines=(*others, entry))
    kept = {name: _stored(bundle.folder, name, digest) for name, digest in manifest.sha256.items() if name not in files}
    write_bundle(bundle.folder, manifest, {**kept, **files}, overwrite=True)
    return replace(bundle, manifest=manifest)


def check_writable(folder: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Make sure that a bundle may be written to `folder` (raises as `write_bundle`)."""
    if not storage.exists(folder):
        return
    if not storage.is_uri(folder) and Path(folder).is_dir() and not any(Path(folder).iterdir()):
        return
    if not is_bundle(folder):
        raise CheckpointError("exists and is no bundle", where=str(folder), fix="Choose another folder.")
    if not overwrite:
        raise CheckpointError("exists", where=str(folder), fix="Add --overwrite to replace it.")
