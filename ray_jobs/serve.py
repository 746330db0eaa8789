"""`changenet serve`: bundles behind HTTP on Ray Serve, until SIGINT or SIGTERM.

`start` and `RunningService.stop` are the same for programs that want a service for a while.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from changenet import passphrase
from changenet.errors import EngineError, RunError
from changenet.spec.serve import Listening
from ray_jobs import cluster
from ray_jobs.listening import in_url
from ray_jobs.serve_check import check, is_remote
from ray_jobs.serve_console import announce, signals
from ray_jobs.serve_proxy import in_front
from ray_jobs.serve_settings import APPLICATION, choose, http_options, warn_if_open
from ray_jobs.tls import Tls, probe_context
from serve.environment import ENVIRONMENT
from serve.settings import ServiceSettings

DEFAULTS = Listening()
START_SECONDS = 180  # replicas are up by then; an overloaded machine takes long to answer all the same

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningService(contextlib.AbstractContextManager["RunningService"]):
    """A service that answers.

    Args:
        url: Where, without a slash at the end.
        owns_ray: Ray was started, or a cluster joined, for it and is left with it.
        owns_serve: Likewise Ray Serve; otherwise only our application is removed.
        ends: What ends after Ray.
    """

    url: str
    owns_ray: bool
    owns_serve: bool
    ends: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def stop(self) -> None:
        """Let requests under way end, then stop what was started."""
        import ray
        from ray import serve

        with self.ends, contextlib.ExitStack() as after:  # whatever fails on the way
            if self.owns_ray:
                after.callback(_forget_controller)
                after.callback(ray.shutdown)
            if self.owns_serve and not (self.owns_ray and cluster.is_own()):  # elsewhere it would outlive this process
                after.callback(serve.shutdown)
            serve.delete(APPLICATION)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def run(
    *,
    spec: str | None = None,
    models: Sequence[str] = (),
    overrides: Sequence[str] = (),
    host: str | None = None,
    port: int | None = None,
    address: str | None = None,
    trusted_keys: Sequence[str] = (),
    keys_file: str | None = None,
    tls_certificate: str | None = None,
    tls_key: str | None = None,
    key_env: str | None = None,
    key_file: str | None = None,
    proxy: str | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM.

    Args:
        spec: Experiment spec whose `serve` section names models, host, port and limits; optional.
        models: `NAME=BUNDLE` each; they come on top of the spec's and replace those of the same name.
        overrides: `key=value` each, for the spec.
        host: Interface to listen on; wins over the spec.
        port: Wins over the spec.
        address: Ray cluster to run on.
        trusted_keys: Files of public keys, of which one must have signed each bundle; they replace the spec's.
        keys_file: File of API keys; wins over the spec.
        tls_certificate: For HTTPS; wins over the spec, as does its key.
        tls_key: Private key of the certificate.
        key_env: Environment variable with the passphrase of encrypted bundles; wins over the spec.
        key_file: File with it, in its place.
        proxy: `auto`, `haproxy` or `ray`; wins over the spec.

    Raises:
        ChangeNetError: Everything wrong with the spec, the models or the port, before Ray starts.
    """
    chosen = choose(
        spec=spec,
        models=models,
        overrides=overrides,
        host=host,
        port=port,
        trusted_keys=trusted_keys,
        keys_file=keys_file,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        encryption_key=passphrase.chosen(key_env, key_file),
        proxy=proxy,
    )
    settings, host, port, tls = chosen.settings, chosen.host, chosen.port, chosen.tls
    lights = check(settings, host=host, port=port, address=address, tls=tls, proxy=chosen.proxy)
    with contextlib.ExitStack() as stack:
        wait_for_signal = stack.enter_context(signals())
        if chosen.action:
            stack.enter_context(chosen.action)
        service = stack.enter_context(
            start(settings, host=host, port=port, address=address, tls=tls, proxy=chosen.proxy)
        )
        announce(service.url, settings, lights)
        wait_for_signal()
    return 0


def start(
    settings: ServiceSettings,
    *,
    host: str = DEFAULTS.host,
    port: int = DEFAULTS.port,
    address: str | None = None,
    tls: Tls | None = None,
    proxy: str = "auto",
) -> RunningService:
    """Deploy the service and return when it answers.

    A Ray that this process is connected to already is used and left running. `proxy` counts for a Ray that starts here.

    Raises:
        EngineError: A replica did not start, or nothing answers.
        RunError: Ray, or Ray Serve, does not start.
    """
    import ray

    owns_ray = not ray.is_initialized()
    for name, value in ENVIRONMENT.items():  # for a Ray that starts here
        os.environ.setdefault(name, value)
    ends = contextlib.ExitStack()
    try:
        seconds = settings.limits.request_seconds
        ends.enter_context(in_front(proxy, host=host, tls=tls, address=address, request_seconds=seconds))
        cluster.connect(address)
    except BaseException:
        ends.close()
        raise
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from serve.app import build

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    warn_if_open(settings, host=host, tls=tls)
    owns_serve = not serve.status().proxies
    service = RunningService(f"{'https' if tls else 'http'}://{in_url(host)}:{port}", owns_ray, owns_serve, ends)
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options=http_options(settings, host=host, port=port, tls=tls),
            logging_config=LoggingConfig(encoding="JSON", log_level="WARNING"),
        )
        serve.run(build(settings), name=APPLICATION, route_prefix="/")
        if not is_remote(address):
            _wait_until_ready(service.url)
    except BaseException as error:
        reason = _reason() if isinstance(error, RuntimeError) else ""  # what serve.run raises when no replica starts
        with contextlib.suppress(Exception):  # what did not start may not stop either
            service.stop()
        if reason:
            raise EngineError(f"no replica starts: {reason}") from error
        if isinstance(error, ray.exceptions.RayError):
            said = next(iter(str(error).splitlines()), type(error).__name__)
            fix = "The machine may be overloaded: run the same command again when it is not."
            raise RunError(f"Ray Serve does not start ({said})", fix=fix) from error
        raise
    return service


def _forget_controller() -> None:
    # Ray Serve takes it for the one of the next Ray, whose first job has the same number; there is no public way.
    from ray.serve import context

    context._disconnect()


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(  # noqa: S310 - our own URL
                f"{url}/v2/health/ready", timeout=5, context=probe_context() if url.startswith("https") else None
            ):
                return
        except OSError:
            time.sleep(0.1)
    fix = "Ray Serve on this cluster may listen elsewhere already."
    raise EngineError(f"nothing answers within {START_SECONDS} s", where=url, fix=fix)


def _reason() -> str:
    """Return why no replica starts."""
    from ray import serve

    from serve.remote import reason_in

    application = serve.status().applications.get(APPLICATION)
    messages = [deployment.message for deployment in application.deployments.values()] if application else []
    return reason_in("\n".join(messages))
