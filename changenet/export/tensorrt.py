"""TensorRT engines of exported graphs: one file for other programs, and one way more to run the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from changenet import encryption, storage
from changenet.bundle import Bundle, add_engine, is_bundle, read_bundle
from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.engines.tensorrt import PAIR, RUNTIME, TensorRtEngine, TensorRtFiles, write_engine_file
from changenet.errors import CheckpointError
from changenet.export.parity import TOLERANCE, check_parity
from changenet.manifest import EngineEntry, Parity
from changenet.signing import SIGNATURE
from changenet.storage import sha256
from changenet.tensorrt.build import BuildSettings, Built, build_plans
from changenet.tensorrt.tag import EngineTag

# Of |score difference| / max(1, |score|): numbers of 8 bits are rounded elsewhere, and those of 16 hold three digits.
TOLERANCES = {"fp32": TOLERANCE, "fp16": 0.05, "bf16": 0.05, "int8": 0.2, "fp8": 0.2}
_BUNDLE = "bundle"


@dataclass(frozen=True)
class Source:
    """The ONNX graphs that engines are built from.

    Args:
        where: Bundle folder or ONNX file.
        graphs: File name, as in a bundle, to ONNX.
        bundle: None for an ONNX file that belongs to none.
    """

    where: str
    graphs: dict[str, bytes]
    bundle: Bundle | None


@dataclass(frozen=True)
class Generated:
    """What was written.

    Args:
        files: Path to size in bytes.
        tag: Where the engines run.
        parity: Agreement with ONNX Runtime; None where it could not be measured: no GPU here, or no bundle.
        signature_lost: The bundle was signed; it has other files now, so it must be signed again.
    """

    files: dict[str, int]
    tag: EngineTag
    parity: Parity | None
    signature_lost: bool


def find_source(path: str, *, encryption_key: str | None = None) -> Source:
    """Return the graphs behind a bundle folder, a graph of one, the `model.onnx` beside one, or an ONNX file alone.

    Args:
        path: Path or URI.
        encryption_key: Opens encrypted graphs.

    Raises:
        CheckpointError: Missing, damaged, or locked.
    """
    folder = next((each for each in (path, _parent(path)) if is_bundle(each)), None)
    if folder is None:
        content = encryption.read_model(path, encryption_key).getvalue()
        beside = storage.join(_parent(path), _BUNDLE)
        bundle = read_bundle(beside, encryption_key=encryption_key) if is_bundle(beside) else None
        if bundle is None or bundle.read("pair.onnx") != content:
            return Source(path, {"pair.onnx": content}, None)
    else:
        bundle = read_bundle(folder, encryption_key=encryption_key)
    names = [name for name in bundle.manifest.sha256 if name.endswith(".onnx")]
    return Source(bundle.folder, {name: bundle.read(name) for name in names}, bundle)


def check_writable(source: Source, engine_file: str, *, overwrite: bool) -> None:
    """Make sure that nothing is replaced unasked (raises CheckpointError)."""
    fix = "Add --overwrite to replace it."
    if overwrite:
        return
    if storage.exists(engine_file):
        raise CheckpointError("exists", where=engine_file, fix=fix)
    if source.bundle is not None and any(each.name == RUNTIME for each in source.bundle.manifest.engines):
        raise CheckpointError("this bundle has a TensorRT engine already", where=source.where, fix=fix)


def generate(
    source: Source,
    settings: BuildSettings,
    engine_file: str,
    *,
    encryption_key: str | None = None,
    timing_cache: str | None = None,
    overwrite: bool = False,
) -> Generated:
    """Build the engines of every graph, hold them against ONNX Runtime where they run, and write them.

    Args:
        source: See `find_source`.
        settings: How they are built.
        engine_file: Where the engine of the pair graph goes (path or URI).
        encryption_key: Encrypts the engines.
        timing_cache: File that makes later builds quicker; read where it is there, written after the build.
        overwrite: Replace an earlier engine.

    Raises:
        EngineError: TensorRT or the GPU is missing, a graph cannot be built, or the engines give other scores: nothing is
            written.
        CheckpointError: There is an earlier engine, and `overwrite` is not given.
    """
    check_writable(source, engine_file, overwrite=overwrite)
    cache = storage.read_bytes(timing_cache) if timing_cache and storage.exists(timing_cache) else b""
    description = source.bundle.manifest.description if source.bundle else None
    goldens = description.num_golden if description else 1
    built = build_plans(source.graphs, settings, goldens=goldens, timing_cache=cache)
    parity = None
    if source.bundle is not None and settings.capability is None:
        parity = _check(source.bundle, source.graphs, built, settings.device)
    if timing_cache and built.timing_cache:
        storage.write_bytes(timing_cache, built.timing_cache)
    files, signed = {}, False
    if source.bundle is not None:
        signed = storage.exists(storage.join(source.where, SIGNATURE))
        stored = {
            name: encryption.seal(plan, encryption_key) if encryption_key else plan
            for name, plan in built.plans.items()
        }
        entry = EngineEntry(
            name=RUNTIME,
            runtime=RUNTIME,
            precision=built.tag.precision,
            sha256={name: sha256(content) for name, content in stored.items()},
            parity=parity or Parity(max_error=None),
            tag=built.tag.to_dict(),
        )
        add_engine(source.bundle, entry, stored)
        files = {storage.join(source.where, name): len(content) for name, content in stored.items()}
    files[engine_file] = write_engine_file(
        engine_file, built.plans[PAIR], built.tag, description, encryption_key=encryption_key
    )
    return Generated(files, built.tag, parity, signed)


def _check(bundle: Bundle, graphs: Mapping[str, bytes], built: Built, device: str) -> Parity:
    description = bundle.manifest.description
    files = TensorRtFiles(bundle.folder, built.tag, description, built.plans.__getitem__)
    return check_parity(
        TensorRtEngine(files, device=device),
        OnnxRuntimeEngine(graphs.__getitem__, description=description),
        shape=description.layout.shape,
        mean=description.network["mean"],
        std=description.network["std"],
        num_golden=description.num_golden,
        pair_batch=bundle.manifest.batch_size,
        tolerance=TOLERANCES[built.tag.precision],
    )


def _parent(path: str) -> str:
    return path.rstrip("/").rpartition("/")[0] or ("/" if path.startswith("/") else ".")
