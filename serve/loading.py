"""Bundles become served models: verified, tried out, and with their registered goldens encoded."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from changenet import storage
from changenet.bundle import is_bundle
from changenet.engines import Arrays
from changenet.errors import ChangeNetError, CheckpointError, DataError
from changenet.inspection import Inspector
from serve.drift import ScoreWindow, has_scores
from serve.golden_cache import GoldenCache, Key, bytes_of
from serve.golden_registry import GoldenRegistry
from serve.inspector import ServedModel, Shared
from serve.metrics import Metrics
from serve.model_state import Candidate, ModelState, StateFiles
from serve.pairs import encode_goldens
from serve.problems import HttpError
from serve.registry_away import AWAY
from serve.settings import ModelSettings, ServiceSettings, Source
from serve.shadow import Shadow
from serve.slot import ModelSlot
from serve.slots import Load, ModelKeeper

STORE_READERS = 16

logger = logging.getLogger(__name__)


def open_models(settings: ServiceSettings, metrics: Metrics, names: Sequence[str] | None = None) -> ModelKeeper:
    """Load models of the service, as the configuration or a later change wants them.

    Args:
        settings: Of the service.
        metrics: Counts.
        names: Which models; None: those that share the replicas of the service.

    Raises:
        CheckpointError: A bundle is missing, damaged, locked, or not signed with a trusted key.
        EngineError: An engine cannot run on this machine, or computes other scores than at export.
    """
    folder = settings.goldens_dir
    shared = Shared(
        decoders=ThreadPoolExecutor(settings.limits.decoders, thread_name_prefix="decode"),
        readers=ThreadPoolExecutor(_readers(settings), thread_name_prefix="goldens"),
        picture_pixels=settings.limits.picture_pixels,
        cache=GoldenCache(settings.golden_cache_mb << 20),
        registry=GoldenRegistry(folder) if folder is not None else None,
        metrics=metrics,
    )
    files = StateFiles(folder) if folder is not None else None

    def load(name: str, source: Source) -> ServedModel:
        return load_model(name, source, settings, shared)

    slots = [_open(name, settings.of(name).models, load, files) for name in names or settings.together]
    return ModelKeeper(
        slots, load=load, files=files, close_after=settings.limits.request_seconds + 10, batching=settings.batching
    )


def _readers(settings: ServiceSettings) -> int:
    """Return how many threads read goldens: those of an object store wait for it nearly all of their time."""
    away = settings.goldens_dir is not None and storage.is_uri(settings.goldens_dir)
    return max(STORE_READERS if away else 0, settings.limits.decoders)


def _open(name: str, configured: tuple[ModelSettings, ...], load: Load, files: StateFiles | None) -> ModelSlot:
    """Load what the state of a model wants; where that fails, what was before, or else what is configured."""
    state, main = wanted_state(name, configured, files)
    active, source, behind = _first(name, [state.active, *filter(None, [state.previous]), main], load)
    shadow = None
    if state.shadow is not None:
        try:
            shadow = Shadow(load(name, state.shadow.source), state.shadow, beside=active)
        except ChangeNetError as error:
            logger.error("The shadow of %r cannot be loaded: %s", name, error)
            behind = behind or f"No shadow: {error}"
    return ModelSlot(active, state, source=source, shadow=shadow, behind=behind)


def wanted_state(
    name: str, configured: tuple[ModelSettings, ...], files: StateFiles | None
) -> tuple[ModelState, Source]:
    """Return what a model should be: as its last change left it, unless it is configured anew; and the configured bundle."""
    main = next(model for model in configured if model.traffic == 1)
    aside = next((model for model in configured if model.traffic < 1), None)
    candidate = Candidate(source=aside.source, traffic=aside.traffic) if aside else None
    state = ModelState(configured=configured, active=main.source, shadow=candidate)
    try:
        changed = files.read(name) if files else None
    except DataError as error:
        logger.error("The configuration of %r counts: %s", name, error)
        changed = None
    return (changed if changed is not None and changed.configured == configured else state), main.source


def _first(name: str, sources: Sequence[Source], load: Load) -> tuple[ServedModel, Source, str | None]:
    """Return the first bundle that loads, and why the one before it did not; raise as the last one does."""
    reason = None
    for number, source in enumerate(sources, start=1):
        try:
            return load(name, source), source, reason
        except ChangeNetError as error:
            if number == len(sources) or sources[number] == source:
                raise
            reason = reason or str(error)
            logger.error("%r is served from another bundle: %s", name, error)
    raise AssertionError("there is always a configured bundle")


def load_model(name: str, source: Source, settings: ServiceSettings, shared: Shared) -> ServedModel:
    """Load one bundle, let it pass its self-test, and encode the goldens that are registered for it.

    Raises:
        CheckpointError: The bundle is missing, damaged, locked, another version, or not signed with a trusted key.
        EngineError: The engine cannot run on this machine, or computes other scores than at export.
    """
    try:
        served = _load(name, source, settings, shared)
        if shared.registry is not None:
            warm(served, shared.registry)
        return served
    except ChangeNetError:
        raise
    except Exception as error:  # what libraries say of a file that was made wrong
        what = f"cannot be used ({type(error).__name__})"
        raise CheckpointError(what, where=source.bundle, fix="Export the bundle again.") from error


def _load(name: str, source: Source, settings: ServiceSettings, shared: Shared) -> ServedModel:
    """Load one bundle and try out everything that an inspection needs of it."""
    if storage.exists(source.bundle) and not is_bundle(source.bundle):
        raise CheckpointError("is no bundle", where=source.bundle, fix="Run changenet export, and give its folder.")
    inspector = Inspector.load(
        source.bundle,
        source.engine,
        encryption_key=settings.passphrase(),
        trusted_keys=settings.trusted_keys,
        threads=settings.cpus,
        device="cuda" if settings.gpus else None,  # the one that Ray shows this replica
    )
    assert inspector.bundle is not None
    version = inspector.bundle.version
    if source.version not in (None, version):
        what = f"is version {version}, not {source.version}"
        raise CheckpointError(what, where=source.bundle, fix="Keep every release in a folder of its own.")
    inspector.self_test()
    description = inspector.description
    if not math.isfinite(description.threshold.value):
        raise CheckpointError("its threshold is no number", where=source.bundle, fix="Export the bundle again.")
    if has_scores(description.validation_scores):
        ScoreWindow(description.validation_scores, description.threshold.value)
    served = ServedModel(name=name, version=version, inspector=inspector, shared=shared, batching=settings.batching)
    served.facts()
    served.warm_up()
    return served


def warm(model: ServedModel, registry: GoldenRegistry) -> None:
    """Encode registered goldens, as many as fit into the cache; one that cannot be used is a warning.

    What other models have there gives way: it goes on being used, or is encoded again when it is.
    """
    cache = model.shared.cache
    sizes: dict[Key, int] = {}
    try:
        for golden_id in registry.ids(model.name):
            for key, halves in _halves(model, registry, golden_id).items():
                sizes[key] = bytes_of(halves)
                if sum(sizes.values()) > cache.limit:
                    logger.warning("The cache is too small for all registered goldens of %r.", model.name)
                    return
                cache.put(key, halves)
    except HttpError as error:  # the folder is away
        logger.warning("The registered goldens of %r are not encoded yet: %s", model.name, error.detail)


def _halves(model: ServedModel, registry: GoldenRegistry, golden_id: str) -> dict[Key, Arrays]:
    """Return what the network makes of a registered golden; nothing where it cannot be used."""
    try:
        registered = registry.get(model.name, golden_id)
        goldens = [model.goldens.one(golden_id, each) for each in registered.pictures] if registered else []
    except (ChangeNetError, HttpError) as error:
        if isinstance(error, HttpError) and error.status_code == AWAY:
            raise
        logger.warning("The golden %r of %r cannot be used: %s", golden_id, model.name, error)
        return {}
    known = {golden.key: golden.halves for golden in goldens if golden.halves is not None}
    new = {golden.key: golden.pixels for golden in goldens if golden.pixels is not None}
    return known | encode_goldens(model.inspector.engine, new)
