"""TensorRT engines of exported graphs: one file for other programs, and one way more to run the bundle."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from changenet import encryption, storage
from changenet.bundle import WEIGHTS, Bundle, add_engine, is_bundle, read_bundle
from changenet.engines.choice import self_test
from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.engines.tensorrt import TensorRtEngine
from changenet.engines.tensorrt_files import PAIR, RUNTIME, TensorRtFiles, note_of, write_engine_file
from changenet.errors import CheckpointError, EngineError
from changenet.evaluation.cost import median_seconds
from changenet.export.parity import check_parity, with_agreement
from changenet.export.targets import OVERWRITE, check_files
from changenet.manifest import EngineEntry, Parity
from changenet.signing import SIGNATURE
from changenet.storage import sha256
from changenet.tensorrt import weights
from changenet.tensorrt.build import BuildSettings, Built, build_plans, read_graph
from changenet.tensorrt.tag import EngineTag

logger = logging.getLogger(__name__)

ELSEWHERE = "it was built for a GPU that is elsewhere, and never run"
_OTHERWISE = "Try another gen_trt_engine.tensorrt.data_type, or fp32 for some nodes: tensorrt.layers_precision."
NO_BUNDLE = "it was built from an ONNX file that belongs to no bundle"
BATCH = 8  # of the comparison of speeds
_BUNDLE, _GRAPH = "bundle", "pair.onnx"


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


def find_source(path: str, *, exported: Sequence[str] = (), encryption_key: str | None = None) -> Source:
    """Return the graphs behind a bundle folder, a graph of one, a copy of its pair graph, or an ONNX file alone.

    Args:
        path: Path or URI.
        exported: Folders where the bundle of a copy may be, besides the one beside it.
        encryption_key: Opens encrypted graphs.

    Raises:
        CheckpointError: Missing, damaged, or locked.
    """
    folder = next((each for each in (path, storage.parent(path)) if is_bundle(each)), None)
    if folder is not None:
        bundle = read_bundle(folder, encryption_key=encryption_key)
    else:
        content = encryption.read_model(path, encryption_key).getvalue()
        beside = storage.join(storage.parent(path), _BUNDLE)
        opened = _opened_bundles(beside, exported, encryption_key)
        found = next((each for each in opened if each.has(_GRAPH) and each.read(_GRAPH) == content), None)
        if found is None:
            return Source(path, {_GRAPH: content, **_weights_beside(path, content, encryption_key)}, None)
        bundle = found
    names = [name for name in bundle.manifest.sha256 if name.endswith(".onnx") or name == WEIGHTS]
    if not names:
        fix = "Export a checkpoint that is not quantized by torchao."
        raise CheckpointError("holds no ONNX graphs, which engines are built from", where=bundle.folder, fix=fix)
    return Source(bundle.folder, {name: bundle.read(name) for name in names}, bundle)


def _opened_bundles(beside: str, exported: Iterable[str], encryption_key: str | None) -> Iterator[Bundle]:
    """Yield the bundles that an ONNX file may come from; of those that do not lie beside it only what can be read."""
    for folder in filter(is_bundle, dict.fromkeys([beside, *exported])):
        try:
            yield read_bundle(folder, encryption_key=encryption_key)
        except CheckpointError as error:
            if folder == beside:
                raise
            logger.info("Left out as the origin of the ONNX file: %s", error)


def _weights_beside(path: str, graph: bytes, encryption_key: str | None) -> dict[str, bytes]:
    """Return the files of weights that a graph names, which lie in its folder."""
    found = {}
    for name in sorted(weights.places(read_graph(graph, where=path))):
        if PurePosixPath(name).name != name:
            raise CheckpointError(
                f"looks for its weights in another folder: {name!r}", where=path, fix="Export it again."
            )
        found[name] = encryption.read_model(storage.join(storage.parent(path), name), encryption_key).getvalue()
    return found


def generate(
    source: Source,
    settings: BuildSettings,
    engine_file: str,
    *,
    encryption_key: str | None = None,
    timing_cache: str | None = None,
    overwrite: bool = False,
    validation: Iterable[tuple[Any, Any]] | None = None,
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

    Raises:
        EngineError: TensorRT or the GPU is missing, a graph cannot be built, or the engines give other scores: nothing is
            written.
        CheckpointError: There is an earlier engine, and `overwrite` is not given; or a file would lie in a bundle.
    """
    _check_targets(source, engine_file, timing_cache, overwrite=overwrite)
    cache = storage.read_bytes(timing_cache) if timing_cache and storage.exists(timing_cache) else b""
    description = source.bundle.manifest.description if source.bundle else None
    goldens = description.num_golden if description else 1
    built = build_plans(source.graphs, settings, goldens=goldens, timing_cache=cache, folder=source.where)
    tag, parity = built.tag, Parity(None, reason=ELSEWHERE if settings.capability else NO_BUNDLE)
    if source.bundle is not None and settings.capability is None:
        engine = _opened(source.bundle, built, settings.device)
        parity = _check(engine, source, validation)
        tag = replace(tag, pairs_per_second=_speeds(engine, source, settings.device))
    if timing_cache and built.timing_cache:
        storage.write_bytes(timing_cache, built.timing_cache)
    signed = source.bundle is not None and storage.exists(storage.join(source.where, SIGNATURE))
    with storage.or_as_before(engine_file, note_of(engine_file)):
        files = {
            engine_file: write_engine_file(
                engine_file, built.plans[PAIR], tag, description, encryption_key=encryption_key
            )
        }
        if source.bundle is not None:
            files |= _add_to_bundle(source.bundle, built.plans, tag, parity, encryption_key)
    return Generated(files, tag, parity, signed)


def _check_targets(source: Source, engine_file: str, timing_cache: str | None, *, overwrite: bool) -> None:
    folder = source.bundle.folder if source.bundle else None
    check_files([engine_file, note_of(engine_file)], bundle=folder, overwrite=overwrite)
    check_files([timing_cache] if timing_cache else [], bundle=folder, overwrite=True)
    if not overwrite and source.bundle and any(each.name == RUNTIME for each in source.bundle.manifest.engines):
        raise CheckpointError("this bundle has a TensorRT engine already", where=source.where, fix=OVERWRITE)


def _add_to_bundle(
    bundle: Bundle, plans: Mapping[str, bytes], tag: EngineTag, parity: Parity, encryption_key: str | None
) -> dict[str, int]:
    """Return path to size in bytes of the files that the bundle has now, too."""
    stored = {name: encryption.seal(plan, encryption_key) if encryption_key else plan for name, plan in plans.items()}
    entry = EngineEntry(
        name=RUNTIME,
        runtime=RUNTIME,
        precision=tag.precision,
        sha256={name: sha256(content) for name, content in stored.items()},
        parity=parity,
        tag=tag.to_dict(),
    )
    add_engine(bundle, entry, stored)
    return {storage.join(bundle.folder, name): len(content) for name, content in stored.items()}


def _opened(bundle: Bundle, built: Built, device: str) -> TensorRtEngine:
    files = TensorRtFiles(bundle.folder, built.tag, bundle.manifest.description, built.plans.__getitem__)
    return TensorRtEngine(files, device=device)


def _check(engine: TensorRtEngine, source: Source, validation: Iterable[tuple[Any, Any]] | None) -> Parity:
    assert source.bundle is not None
    manifest = source.bundle.manifest
    description = manifest.description
    precision = manifest.engines[0].precision
    reference = OnnxRuntimeEngine(source.graphs.__getitem__, description=description, precision=precision)
    parity = check_parity(engine, reference, description, fix=_OTHERWISE, pair_batch=manifest.batch_size)
    self_test(engine, source.bundle)  # whoever loads the bundle asks for it, too
    parity = replace(parity, min_agreement=manifest.engines[0].parity.min_agreement)
    return with_agreement(parity, engine, reference, description, validation)


def _speeds(engine: TensorRtEngine, source: Source, device: str) -> dict[str, float]:
    """Return the pairs a second of both runtimes on this machine, ONNX Runtime's on the GPU where it can use that."""
    assert source.bundle is not None
    description = source.bundle.manifest.description
    try:
        other = OnnxRuntimeEngine(source.graphs.__getitem__, description=description, device=device)
    except (EngineError, CheckpointError):  # no such provider, or a graph that it refuses
        other = OnnxRuntimeEngine(source.graphs.__getitem__, description=description)
    shape, goldens = description.layout.shape, description.num_golden
    seconds = {each.name: median_seconds(each, BATCH, shape, goldens) for each in (engine, other)}
    return {name: round(BATCH / each, 1) for name, each in seconds.items()}
