"""A bundle: the folder that serving needs, and nothing else.

`manifest.json` says what the graphs beside it decide, how pictures become their input, and the SHA-256 of every file.
A bundle is written as a whole or not at all, and nothing in it is used before it was verified. docs/bundle.md lists
the fields.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from changenet import encryption, signing, storage
from changenet.data.lights import PictureLayout
from changenet.description import ModelDescription, Threshold
from changenet.errors import CheckpointError, DataError, Problem

FORMAT = "changenet-bundle"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SELFTEST = "selftest.npz"
WEIGHTS = "weights.data"  # of graphs that are too large for one ONNX file
_AGAIN = "Export it again, or copy the whole folder again."


@dataclass(frozen=True)
class Parity:
    """How well an engine agrees with the PyTorch network.

    Args:
        max_error: Largest |score difference| / max(1, |score|) over the pairs of the check; None where there was none.
        agreement: Fraction (0-1) of equal decisions on real pairs; None where none were compared.
        min_agreement: What was asked for.
        reason: Why there was no check, or no decisions were compared.
    """

    max_error: float | None
    agreement: float | None = None
    min_agreement: float = 0.99
    reason: str = ""


@dataclass(frozen=True)
class EngineEntry:
    """One way to run the model.

    Args:
        name: Unique in the bundle.
        runtime: `onnxruntime` or `tensorrt`.
        precision: `fp32`, `fp16`, `int8` …
        sha256: File name to the digest of the file as it is stored.
        parity: Result of the check at export.
        tag: What the runtime needs to know before it loads the files: where a TensorRT engine runs.
    """

    name: str
    runtime: str
    precision: str
    sha256: dict[str, str]
    parity: Parity
    tag: dict[str, Any] = field(default_factory=dict)

    @property
    def verified(self) -> bool:
        """Whether it was held against the network and passed: by its scores in fp32, else by its decisions."""
        if self.precision == "fp32":
            return self.parity.max_error is not None
        return self.parity.agreement is not None and self.parity.agreement >= self.parity.min_agreement

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = {**asdict(self), "files": list(self.sha256)}
        if not self.tag:
            del values["tag"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineEntry:
        """Rebuild what `to_dict` took apart."""
        return cls(
            name=values["name"],
            runtime=values["runtime"],
            precision=values["precision"],
            sha256={name: values["sha256"][name] for name in values["files"]},
            parity=Parity(**values["parity"]),
            tag=values.get("tag", {}),
        )


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle says about itself.

    Args:
        description: The trained network's own description.
        engines: The ways to run it.
        selftest_sha256: Digest of `selftest.npz`.
        batch_size: Of `pair.onnx`; -1 takes any. The other graphs always take any.
        weights_sha256: Digest of the weights, by name, in the order of the network.
        exported_with: Versions of the packages that wrote the graphs.
    """

    description: ModelDescription
    engines: tuple[EngineEntry, ...]
    selftest_sha256: str
    batch_size: int = -1
    weights_sha256: str = ""
    exported_with: dict[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> dict[str, str]:
        """File name to digest, of every file but the manifest."""
        digests = {SELFTEST: self.selftest_sha256}
        for engine in self.engines:
            digests |= engine.sha256
        return digests

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `manifest.json`."""
        description = self.description.to_dict()
        network = description["network"]
        _, height, width = self.description.layout.shape
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "task": "classify",
            "difference_module": self.description.difference_module,
            "classes": description["classes"],
            "input": {
                **description["layout"],
                "size": [height, width],
                "channels": 3,
                "mean": network["mean"],
                "std": network["std"],
                "batch_size": self.batch_size,
                "image_ext": description["image_ext"],
            },
            "num_golden": description["num_golden"],
            "threshold": description["threshold"],
            "validation_scores": description["validation_scores"],
            "engines": [engine.to_dict() for engine in self.engines],
            "selftest": {"file": SELFTEST, "sha256": self.selftest_sha256},
            "provenance": {
                "spec_sha256": sha256(json.dumps(description["spec"], sort_keys=True).encode()),
                "data_sha256": description["data_hash"],
                "weights_sha256": self.weights_sha256,
                "metrics": description["metrics"],
                "spec": description["spec"],
            },
            "network": {key: value for key, value in network.items() if key not in ("mean", "std")},
            "versions": {"trained": description["versions"], "exported": self.exported_with},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Manifest:
        """Rebuild what `to_dict` took apart."""
        picture, provenance = values["input"], values["provenance"]
        layout = {name: picture[name] for name in ("lights", "concat", "grid", "width", "height")}
        description = ModelDescription(
            network={**values["network"], "mean": picture["mean"], "std": picture["std"]},
            layout=PictureLayout.from_dict(layout),
            threshold=Threshold.from_dict(values["threshold"]),
            classes=tuple(values["classes"]),
            num_golden=values["num_golden"],
            image_ext=picture["image_ext"],
            validation_scores=values["validation_scores"],
            spec=provenance["spec"],
            metrics=provenance["metrics"],
            versions=values["versions"]["trained"],
            data_hash=provenance["data_sha256"],
        )
        return cls(
            description=description,
            engines=tuple(EngineEntry.from_dict(engine) for engine in values["engines"]),
            selftest_sha256=values["selftest"]["sha256"],
            batch_size=picture["batch_size"],
            weights_sha256=provenance["weights_sha256"],
            exported_with=values["versions"]["exported"],
        )


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


def sha256(content: bytes) -> str:
    """Return the hexadecimal SHA-256 of the content."""
    return hashlib.sha256(content).hexdigest()


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
