"""Bundles become served models: verified, tried out, and with their registered goldens encoded."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

from changenet.errors import ChangeNetError, CheckpointError
from changenet.inspection import Inspector
from serve.golden_cache import GoldenCache
from serve.golden_registry import GoldenRegistry
from serve.inspector import ServedModel, Shared
from serve.pairs import encode_goldens
from serve.problems import HttpError
from serve.settings import ModelSettings, ServiceSettings

logger = logging.getLogger(__name__)


def load_models(settings: ServiceSettings) -> dict[str, ServedModel]:
    """Load every model of the service, under its name (raises as `load_model`)."""
    shared = Shared(
        decoders=ThreadPoolExecutor(settings.limits.decoders, thread_name_prefix="decode"),
        picture_pixels=settings.limits.picture_pixels,
        cache=GoldenCache(settings.golden_cache_bytes),
        registry=GoldenRegistry(settings.goldens_dir) if settings.goldens_dir is not None else None,
    )
    return {model.name: load_model(model, settings, shared) for model in settings.models}


def load_model(model: ModelSettings, settings: ServiceSettings, shared: Shared) -> ServedModel:
    """Load one bundle, let it pass its self-test, and encode the goldens that are registered for it.

    Raises:
        CheckpointError: The bundle is missing, damaged, locked, or not signed with a trusted key.
        EngineError: The engine cannot run on this machine, or computes other scores than at export.
    """
    key = settings.encryption_key.get_secret_value() if settings.encryption_key else None
    inspector = Inspector.load(model.bundle, model.engine, encryption_key=key, trusted_keys=settings.trusted_keys)
    if inspector.bundle is None:
        raise CheckpointError("is a checkpoint, not a bundle", where=model.bundle, fix="Run changenet export.")
    inspector.self_test()
    served = ServedModel(
        name=model.name,
        version=inspector.bundle.version,
        inspector=inspector,
        shared=shared,
        batching=settings.batching,
    )
    if shared.registry is not None:
        warm(served, shared.registry)
    return served


def warm(model: ServedModel, registry: GoldenRegistry) -> None:
    """Encode registered goldens until the cache is full; one that cannot be used is a warning."""
    cache = model.shared.cache
    for golden_id in registry.ids(model.name):
        try:
            registered = registry.get(model.name, golden_id)
            goldens = [model.golden_of(golden_id, each) for each in registered.pictures] if registered else []
        except (ChangeNetError, HttpError) as error:
            logger.warning("The golden %r of %r cannot be used: %s", golden_id, model.name, error)
            continue
        pictures = {golden.key: golden.pixels for golden in goldens if golden.pixels is not None}
        if not pictures:
            continue
        kept = len(cache)
        encode_goldens(model.inspector.engine, pictures, cache)
        if len(cache) < kept + len(pictures):
            logger.warning("The cache is too small for all registered goldens of %r.", model.name)
            return
