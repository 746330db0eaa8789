"""The files of TensorRT engines: in a bundle, or one by itself with a note beside it that says what it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from changenet import encryption, storage
from changenet.bundle import Bundle, is_bundle, read_bundle
from changenet.description import ModelDescription
from changenet.errors import CheckpointError, DataError, EngineError
from changenet.signing import KeySource
from changenet.storage import sha256
from changenet.tensorrt.tag import EngineTag

FORMAT = "changenet-tensorrt"
FORMAT_VERSION = 1
PAIR = "pair.engine"
RUNTIME = "tensorrt"


@dataclass(frozen=True)
class TensorRtFiles:
    """Engines that were built together, before anything of them is loaded.

    Args:
        where: The bundle or the file.
        tag: Where they run.
        description: What the model says about itself.
        read: Returns the content of the engine file of that name.
        pair_only: There is the pair graph alone, not the split road.
    """

    where: str
    tag: EngineTag
    description: ModelDescription
    read: Callable[[str], bytes] = field(repr=False)
    pair_only: bool = False


def note_of(path: str) -> str:
    """Return the path of the note that says what an engine file is."""
    return f"{path}.json"


def is_engine_file(path: str) -> bool:
    """Say whether `path` (or URI) is an engine that `write_engine_file` wrote: the note beside it says so."""
    try:
        return FORMAT.encode() in storage.read_bytes(note_of(path))
    except DataError:
        return False


def renew_note(path: str, *, source: str) -> None:
    """Write the note of an engine file that was written anew from another one, or in its own place, with the digest it has now."""
    note = {**json.loads(storage.read_text(note_of(source))), "sha256": storage.file_sha256(path)}
    _write_note(path, note)


def write_engine_file(
    path: str, plan: bytes, tag: EngineTag, description: ModelDescription | None, *, encryption_key: str | None = None
) -> int:
    """Write the engine of the pair graph as TensorRT knows it, and beside it, in `PATH.json`, what it is.

    Args:
        path: Path or URI.
        plan: The engine, which DeepStream, Triton and trtexec read as it is.
        tag: Where it runs.
        description: Of the network; None where the ONNX file did not come from `changenet export`.
        encryption_key: Encrypts the engine.

    Returns:
        Its size in bytes.
    """
    stored = encryption.seal(plan, encryption_key) if encryption_key else plan
    note = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "sha256": sha256(stored),
        "tag": tag.to_dict(),
        "description": description.to_dict() if description else None,
    }
    storage.write_bytes(path, stored)
    _write_note(path, note)
    return len(stored)


def _write_note(path: str, note: dict[str, Any]) -> None:
    storage.write_text(note_of(path), json.dumps(note, indent=2, ensure_ascii=False) + "\n")


def open_files(
    path: str, *, encryption_key: str | None = None, trusted_keys: Sequence[KeySource] = ()
) -> tuple[TensorRtFiles, Bundle | None]:
    """Read and verify what `TensorRtEngine` runs; needs neither TensorRT nor a GPU.

    Args:
        path: A bundle folder or an engine file (path or URI).
        encryption_key: Opens encrypted engines.
        trusted_keys: As `changenet.engines.load_engine`; only a bundle can carry a signature.

    Returns:
        The files, and the bundle, where it is one.

    Raises:
        CheckpointError: Missing, damaged, locked, of a newer format, or not signed with a trusted key.
        EngineError: There is no TensorRT engine in it.
    """
    if is_bundle(path):
        bundle = read_bundle(path, encryption_key=encryption_key, trusted_keys=trusted_keys)
        return files_of(bundle), bundle
    if trusted_keys:
        what = "is no bundle, and a signature is demanded, which only a bundle can carry"
        raise CheckpointError(what, where=path, fix="Give the bundle that the engine was built from.")
    if not storage.exists(path):
        raise CheckpointError("there is no such file", where=path, fix="Run changenet gen_trt_engine first.")
    if not is_engine_file(path):
        what = "the engine tensorrt runs what changenet gen_trt_engine built, and this is something else"
        raise EngineError(what, where=path, fix="Export to a bundle, and give it to changenet gen_trt_engine.")
    return _open_engine_file(path, encryption_key), None


def files_of(bundle: Bundle) -> TensorRtFiles:
    """Return the engines of a bundle (raises EngineError where there are none)."""
    path = bundle.folder
    entry = next((each for each in bundle.manifest.engines if each.runtime == RUNTIME), None)
    if entry is None:
        what = "there is no TensorRT engine in this bundle"
        fix = f"Build one: changenet gen_trt_engine with gen_trt_engine.onnx_file={path}."
        raise EngineError(what, where=path, fix=fix)
    return TensorRtFiles(path, _tag(entry.tag, path), bundle.manifest.description, bundle.read)


def _open_engine_file(path: str, encryption_key: str | None) -> TensorRtFiles:
    where, again = note_of(path), "Build the engine again, or copy both files again."
    try:
        note = json.loads(storage.read_text(where))
        if note.get("format") != FORMAT:
            raise CheckpointError("does not describe a TensorRT engine", where=where, fix=again)
        if note["format_version"] > FORMAT_VERSION:
            what = f"written in format version {note['format_version']}; this program reads up to {FORMAT_VERSION}"
            raise CheckpointError(what, where=where, fix="Upgrade changenet.")
        tag, described, digest = _tag(note["tag"], where), note["description"], note["sha256"]
        description = ModelDescription.from_dict(described) if described else None
    except (DataError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"damaged ({type(error).__name__}: {error})", where=where, fix=again) from error
    if description is None:
        what = "was built from an ONNX file alone, which has neither preprocessing nor threshold"
        fix = "Build it from a bundle, or from the model.onnx that changenet export wrote beside one."
        raise EngineError(what, where=path, fix=fix)

    def read(_name: str) -> bytes:
        try:
            stored = storage.read_bytes(path)
        except DataError as error:
            raise CheckpointError("there is no such file", where=path, fix=again) from error
        if sha256(stored) != digest:
            raise CheckpointError("changed since it was written (SHA-256 differs)", where=path, fix=again)
        if not encryption.is_sealed(stored):
            return stored
        return encryption.unseal(stored, encryption_key, where=path)

    read(PAIR)  # what is wrong with the file is said now
    return TensorRtFiles(path, tag, description, read, pair_only=True)


def _tag(values: dict[str, Any], where: str) -> EngineTag:
    try:
        return EngineTag.from_dict(values)
    except (TypeError, KeyError) as error:
        what = f"the TensorRT engine does not say where it runs ({type(error).__name__}: {error})"
        raise CheckpointError(what, where=where, fix="Build the engine again.") from error
