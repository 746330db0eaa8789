"""TensorRT engines of exported graphs: one file for other programs, and one way more to run the bundle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from changenet import encryption, storage
from changenet.bundle import WEIGHTS, Bundle, add_engine, is_bundle, read_bundle
from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.engines.tensorrt import TensorRtEngine
from changenet.engines.tensorrt_files import PAIR, RUNTIME, TensorRtFiles, write_engine_file
from changenet.errors import CheckpointError, EngineError
from changenet.evaluation.comparison import compare_engines
from changenet.evaluation.cost import median_seconds
from changenet.export.parity import TOLERANCE, check_parity
from changenet.manifest import EngineEntry, Parity
from changenet.signing import SIGNATURE
from changenet.storage import sha256
from changenet.tensorrt import weights
from changenet.tensorrt.build import BuildSettings, Built, build_plans, read_graph
from changenet.tensorrt.tag import EngineTag

# Of |score difference| / max(1, |score|): numbers of 8 bits are rounded elsewhere, and those of 16 hold three digits.
TOLERANCES = {"fp32": TOLERANCE, "fp16": 0.05, "bf16": 0.05, "int8": 0.2, "fp8": 0.2}
ELSEWHERE = "it was built for a GPU that is elsewhere, and never run"
NO_BUNDLE = "it was built from an ONNX file that belongs to no bundle"
BATCH = 8  # of the comparison of speeds
_BUNDLE = "bundle"


@dataclass(frozen=True)
class Source:
    """The ONNX graphs that engines are built from.

    Args:
        where: Bundle folder or ONNX file.
        graphs: File name, as in a bundle, to ONNX; other names than `*.onnx` are files of weights beside the graphs.
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
        parity: Agreement with ONNX Runtime, or why it could not be measured.
        signature_lost: The bundle was signed; it has other files now, so it must be signed again.
    """

    files: dict[str, int]
    tag: EngineTag
    parity: Parity
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
        if bundle is None or not bundle.has("pair.onnx") or bundle.read("pair.onnx") != content:
            return Source(path, {"pair.onnx": content, **_weights_beside(path, content, encryption_key)}, None)
    else:
        bundle = read_bundle(folder, encryption_key=encryption_key)
    names = [name for name in bundle.manifest.sha256 if name.endswith(".onnx") or name == WEIGHTS]
    if not names:
        fix = "Export a checkpoint that is not quantized by torchao."
        raise CheckpointError("holds no ONNX graphs, which engines are built from", where=bundle.folder, fix=fix)
    return Source(bundle.folder, {name: bundle.read(name) for name in names}, bundle)


def _weights_beside(path: str, graph: bytes, encryption_key: str | None) -> dict[str, bytes]:
    """Return the files of weights that a graph names, which lie in its folder."""
    found = {}
    for name in sorted(weights.places(read_graph(graph, where=path))):
        if PurePosixPath(name).name != name:
            raise CheckpointError(
                f"looks for its weights in another folder: {name!r}", where=path, fix="Export it again."
            )
        found[name] = encryption.read_model(storage.join(_parent(path), name), encryption_key).getvalue()
    return found


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
    validation: Iterable[tuple[Any, Any]] | None = None,
    not_compared: str = "",
) -> Generated:
    """Build the engines of every graph, hold them against ONNX Runtime where they run, and write them.

    Args:
        source: See `find_source`.
        settings: How they are built.
        engine_file: Where the engine of the pair graph goes (path or URI).
        encryption_key: Encrypts the engines.
        timing_cache: File that makes later builds quicker; read where it is there, written after the build.
        overwrite: Replace an earlier engine.
        validation: Real pairs, as `changenet.export.onnx.export_bundle`, on which decisions are compared.
        not_compared: Why on none.

    Raises:
        EngineError: TensorRT or the GPU is missing, a graph cannot be built, or the engines give other scores: nothing is
            written.
        CheckpointError: There is an earlier engine, and `overwrite` is not given.
    """
    check_writable(source, engine_file, overwrite=overwrite)
    cache = storage.read_bytes(timing_cache) if timing_cache and storage.exists(timing_cache) else b""
    description = source.bundle.manifest.description if source.bundle else None
    goldens = description.num_golden if description else 1
    built = build_plans(source.graphs, settings, goldens=goldens, timing_cache=cache, folder=source.where)
    tag, parity = built.tag, Parity(None, reason=ELSEWHERE if settings.capability else NO_BUNDLE)
    if source.bundle is not None and settings.capability is None:
        engine = _opened(source.bundle, built, settings.device)
        parity = _check(engine, source, validation, not_compared)
        tag = replace(tag, pairs_per_second=_speeds(engine, source, settings.device))
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
            precision=tag.precision,
            sha256={name: sha256(content) for name, content in stored.items()},
            parity=parity,
            tag=tag.to_dict(),
        )
        add_engine(source.bundle, entry, stored)
        files = {storage.join(source.where, name): len(content) for name, content in stored.items()}
    files[engine_file] = write_engine_file(
        engine_file, built.plans[PAIR], tag, description, encryption_key=encryption_key
    )
    return Generated(files, tag, parity, signed)


def _opened(bundle: Bundle, built: Built, device: str) -> TensorRtEngine:
    files = TensorRtFiles(bundle.folder, built.tag, bundle.manifest.description, built.plans.__getitem__)
    return TensorRtEngine(files, device=device)


def _check(
    engine: TensorRtEngine, source: Source, validation: Iterable[tuple[Any, Any]] | None, not_compared: str
) -> Parity:
    assert source.bundle is not None
    manifest = source.bundle.manifest
    description = manifest.description
    reference = OnnxRuntimeEngine(source.graphs.__getitem__, description=description)
    parity = check_parity(
        engine,
        reference,
        shape=description.layout.shape,
        mean=description.network["mean"],
        std=description.network["std"],
        num_golden=description.num_golden,
        pair_batch=manifest.batch_size,
        tolerance=TOLERANCES[engine.precision],
    )
    parity = replace(parity, min_agreement=manifest.engines[0].parity.min_agreement)
    if validation is None:
        return replace(parity, reason=not_compared)
    return replace(parity, agreement=compare_engines(reference, engine, validation, description).agreement)


def _speeds(engine: TensorRtEngine, source: Source, device: str) -> dict[str, float]:
    """Return the pairs a second of both runtimes on this machine, ONNX Runtime's on the GPU where it can use that."""
    assert source.bundle is not None
    description = source.bundle.manifest.description
    try:
        other = OnnxRuntimeEngine(source.graphs.__getitem__, description=description, device=device)
    except EngineError:
        other = OnnxRuntimeEngine(source.graphs.__getitem__, description=description)
    shape, goldens = description.layout.shape, description.num_golden
    seconds = {each.name: median_seconds(each, BATCH, shape, goldens) for each in (engine, other)}
    return {name: round(BATCH / each, 1) for name, each in seconds.items()}


def _parent(path: str) -> str:
    return path.rstrip("/").rpartition("/")[0] or ("/" if path.startswith("/") else ".")
