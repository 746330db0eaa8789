"""What a service is told, out of the spec's section `serve` and the options of the command."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from changenet import signing, storage
from changenet.errors import Problem, SpecError
from changenet.spec.serve import DOTS, NAME_PATTERN, Listening, Serve, ServedModel
from changenet.spec.serve_checks import check_serve
from ray_jobs.action import Action
from ray_jobs.listening import is_loopback, own_names
from ray_jobs.tls import Tls
from serve.settings import ServiceSettings

APPLICATION = "changenet"
GOLDENS_DIR = "results/serve/goldens"  # without a spec

logger = logging.getLogger(__name__)


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
    encryption_key: str | None = None,
    proxy: str | None = None,
) -> Chosen:
    """Return the service that options and spec ask for (arguments as `ray_jobs.serve.run`, but the passphrase itself).

    Raises:
        ChangeNetError: Everything wrong with the spec or the options.
    """
    if overrides and spec is None:
        raise SpecError(f"{overrides[0]!r} overrides a spec, but none is given", fix="Add -e SPEC.")
    given = parse_models(models)
    action = Action.load("serve", spec, overrides) if spec is not None else None
    written = action.experiment.serve if action else Serve()
    kept = [
        each.model_copy(update={"bundle": storage.absolute(each.bundle)})
        for each in written.models
        if each.name not in given
    ]
    section = written.model_copy(update={"models": (*kept, *given.values())})
    if not section.models:
        raise SpecError("no model to serve", fix="Give --model NAME=BUNDLE, or serve.models in the spec.")
    if found := [Problem(each.what, each.keys[0], each.fix) for each in check_serve(section)]:
        raise SpecError(found)  # the spec fits in itself; the models of the options may not
    goldens_dir = section.goldens_dir or (action.path("goldens") if action else GOLDENS_DIR)
    keys_file = keys_file or section.keys_file
    host = host or section.host
    told = section.model_dump(exclude=set(Listening.model_fields)) | {
        "goldens_dir": storage.absolute(goldens_dir),
        "encryption_key": encryption_key or (action.experiment.encryption_key if action else None),
        # As text: replicas need not see the files.
        "trusted_keys": tuple(
            signing.public_text(signing.read_public_key(file)) for file in trusted_keys or section.trusted_keys
        ),
        "keys_file": storage.absolute(keys_file) if keys_file else None,
        "hosts": () if keys_file else own_names(host),
    }
    tls = Tls.chosen(tls_certificate or section.tls_certificate, tls_key or section.tls_key)
    return Chosen(ServiceSettings(**told), host, port or section.port, tls, proxy or section.proxy, action)


def http_options(settings: ServiceSettings, *, host: str, port: int, tls: Tls | None) -> dict[str, Any]:
    """Return how the proxies of Ray Serve listen."""
    return {
        "host": host,
        "port": port,
        "request_timeout_s": settings.limits.request_seconds + 10,  # the service itself answers before, with a problem
        **(tls.http_options() if tls else {}),
    }


def warn_if_open(settings: ServiceSettings, *, host: str, tls: Tls | None) -> None:
    """Warn when others than this machine reach the service, and it asks for no key, or keys travel in the clear."""
    if is_loopback(host):
        return
    if not settings.keys_file:
        logger.warning("Listening on %s without keys: whoever reaches it can use the service.", host)
    elif tls is None:
        logger.warning("Listening on %s without TLS: keys and pictures can be read on the way.", host)


def parse_models(models: Sequence[str]) -> dict[str, ServedModel]:
    """Return the models of `NAME=BUNDLE` options, by name.

    Raises:
        SpecError: Options of another form, or a name given twice.
    """
    chosen: dict[str, ServedModel] = {}
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
            chosen[name] = ServedModel(name=name, bundle=storage.absolute(bundle))
    if problems:
        raise SpecError(problems)
    return chosen
