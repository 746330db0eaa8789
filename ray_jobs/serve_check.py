"""What can be wrong with a service before Ray starts: its bundles, its keys, its port."""

from __future__ import annotations

import os
import socket

from changenet import storage
from changenet.bundle import Bundle, read_bundle
from changenet.errors import ChangeNetError, Problem, SpecError
from ray_jobs import serve_proxy
from ray_jobs.tls import Tls
from serve.keys import read_keys
from serve.settings import ModelSettings, ServiceSettings


def check(
    settings: ServiceSettings,
    *,
    host: str,
    port: int,
    address: str | None = None,
    tls: Tls | None = None,
    proxy: str = "auto",
) -> tuple[str, ...]:
    """Verify every bundle, the keys and the port where that can be done from here, and return the first model's lights.

    Raises:
        SpecError: All that is wrong.
    """
    problems = serve_proxy.problems(proxy, host=host, tls=tls, address=address)
    if is_remote(address):
        if problems:
            raise SpecError(problems)
        return ("",)
    bundles = [_verified(model, settings, problems) for model in settings.models]
    if settings.keys_file:
        try:
            read_keys(settings.keys_file)
        except SpecError as error:
            problems += error.problems
    problems += tls.problems() if tls else []
    try:
        with socket.socket() as probe:
            # No SO_REUSEPORT: Ray Serve sets it, and two services would share the port without a word.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        problems.append(
            Problem(f"cannot listen on {host}:{port} ({error.strerror})", fix="Choose another --port or --host.")
        )
    if problems:
        raise SpecError(problems)
    assert bundles[0] is not None
    return bundles[0].manifest.description.layout.lights


def check_bundles(settings: ServiceSettings) -> list[ModelSettings]:
    """Verify every bundle that is seen from here, and return the models whose bundle is not: the replicas may see it.

    Raises:
        SpecError: All that is wrong with the others.
    """
    problems: list[Problem] = []
    away = []
    for model in settings.models:
        if _is_seen(model.bundle):
            _verified(model, settings, problems)
        else:
            away.append(model)
    if problems:
        raise SpecError(problems)
    return away


def is_remote(address: str | None) -> bool:
    """Say whether the head node, where the service will listen, is another machine than this one."""
    target = address or os.environ.get("RAY_ADDRESS") or ""
    if target.startswith("ray://"):
        return True
    host = target.rpartition(":")[0]
    if not host:  # "local", "auto" or nothing
        return False
    try:
        with socket.socket() as probe:
            probe.bind((host, 0))  # works with addresses of this machine alone
    except OSError:
        return True
    return False


def _is_seen(bundle: str) -> bool:
    try:
        return storage.exists(bundle)
    except Exception:  # noqa: BLE001 - no way to a bucket from here, whatever its library says about it
        return False


def _verified(model: ModelSettings, settings: ServiceSettings, problems: list[Problem]) -> Bundle | None:
    """Return the bundle of a model, or add what is wrong with it."""
    key = settings.passphrase()
    try:
        bundle = read_bundle(model.bundle, encryption_key=key, trusted_keys=settings.trusted_keys)
        if bundle.encrypted:
            for name in bundle.manifest.sha256:
                bundle.read(name)
    except ChangeNetError as error:
        problems += error.problems
        return None
    return bundle
