"""What a service is told, out of the spec's section `serve` and the options of the command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from changenet import signing, storage
from changenet.errors import Problem, SpecError
from changenet.spec import serve
from ray_jobs.action import Action
from ray_jobs.tls import Tls
from serve.settings import DOTS, NAME_PATTERN, Autoscaling, Batching, Limits, ModelSettings, ServiceSettings

APPLICATION = "changenet"
PORT = 8000
GOLDENS_DIR = "results/serve/goldens"  # without a spec
INSPECTIONS = Limits().inspections


@dataclass(frozen=True)
class Chosen:
    """A service, where it listens and how, and the action of the spec, where one was given."""

    settings: ServiceSettings
    host: str
    port: int
    tls: Tls | None
    proxy: str
    action: Action | None


def choose(
    *,
    spec: str | None = None,
    models: Sequence[str] = (),
    overrides: Sequence[str] = (),
    host: str | None = None,
    port: int | None = None,
    trusted_keys: Sequence[str] = (),
    keys_file: str | None = None,
    tls_certificate: str | None = None,
    tls_key: str | None = None,
    proxy: str | None = None,
) -> Chosen:
    """Return the service that options and spec ask for (arguments as `ray_jobs.serve.run`).

    Raises:
        ChangeNetError: Everything wrong with the spec or the options.
    """
    if overrides and spec is None:
        raise SpecError(f"{overrides[0]!r} overrides a spec, but none is given", fix="Add -e SPEC.")
    given = parse_models(models)
    action = Action.load("serve", spec, overrides) if spec is not None else None
    section = action.experiment.serve if action else serve.Serve()
    chosen = [
        ModelSettings(
            name=each.name,
            bundle=storage.absolute(each.bundle),
            engine=each.engine,
            version=each.version,
            traffic=each.traffic,
            replicas=each.replicas,
            autoscaling=_autoscaling(each.autoscaling),
        )
        for each in section.models
        if each.name not in given
    ]
    chosen += given.values()
    if not chosen:
        raise SpecError("no model to serve", fix="Give --model NAME=BUNDLE, or serve.models in the spec.")
    goldens_dir = section.goldens_dir or (action.path("goldens") if action else GOLDENS_DIR)
    keys_file = keys_file or section.keys_file
    together = {each.name for each in chosen if each.traffic == 1 and not (each.replicas or each.autoscaling)}
    settings = ServiceSettings(
        models=tuple(chosen),
        limits=Limits(
            request_bytes=section.max_request_mb << 20,
            picture_pixels=section.max_picture_megapixels * 1_000_000,
            inspections=section.max_ongoing_requests or max(INSPECTIONS, len(together) * section.max_batch_size),
        ),
        batching=Batching(max_batch_size=section.max_batch_size, batch_wait_timeout_s=section.batch_wait_timeout_s),
        replicas=section.replicas,
        autoscaling=_autoscaling(section.autoscaling),
        cpus=section.cpus,
        goldens_dir=storage.absolute(goldens_dir),
        golden_cache_bytes=section.golden_cache_mb << 20,
        encryption_key=action.experiment.encryption_key if action else None,
        # As text: replicas need not see the files.
        trusted_keys=tuple(
            signing.public_text(signing.read_public_key(file)) for file in trusted_keys or section.trusted_keys
        ),
        keys_file=storage.absolute(keys_file) if keys_file else None,
    )
    tls = Tls.chosen(tls_certificate or section.tls_certificate, tls_key or section.tls_key)
    return Chosen(settings, host or section.host, port or section.port, tls, proxy or section.proxy, action)


def _autoscaling(section: serve.Autoscaling) -> Autoscaling | None:
    return Autoscaling(**section.model_dump()) if section.max_replicas is not None else None


def parse_models(models: Sequence[str]) -> dict[str, ModelSettings]:
    """Return the models of `NAME=BUNDLE` options, by name.

    Raises:
        SpecError: Options of another form, or a name given twice.
    """
    chosen: dict[str, ModelSettings] = {}
    problems = []
    for option in models:
        name, separator, bundle = option.partition("=")
        if not separator or not name or not bundle:
            problems.append(Problem(f"{option!r} is not NAME=BUNDLE", "--model"))
        elif not re.fullmatch(NAME_PATTERN, name) or name in DOTS:
            fix = f"It must match {NAME_PATTERN}, and be more than . or .. ."
            problems.append(Problem(f"{name!r} is no model name", "--model", fix))
        elif name in chosen:
            problems.append(Problem(f"the name {name!r} is given twice", "--model"))
        else:
            chosen[name] = ModelSettings(name=name, bundle=storage.absolute(bundle))
    if problems:
        raise SpecError(problems)
    return chosen
