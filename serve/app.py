"""The Ray Serve application: one deployment whose replicas hold the routes, the models and their engines."""

# No `from __future__ import annotations`: from a config file (RayService, `serve deploy`) Ray Serve makes the argument of
# `build` out of plain values, and it reads the class from the annotation.
import logging
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.schema import LoggingConfig

from serve.settings import Batching, ServiceSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

DEPLOYMENT = "inspection"
# What Ray Serve lets into a replica, and in front of it, beyond its inspections: health, the page, and requests that are
# about to be refused as a problem. Only beyond this would Ray Serve itself answer 503, as plain text.
EXTRA_REQUESTS = 1000


class Inspection:
    """One replica: the routes, with all models loaded before the first request."""

    def __init__(self, settings: ServiceSettings) -> None:
        from serve.keys import KeyRing
        from serve.loading import open_models
        from serve.metrics import Metrics, RaySink

        _log_like_ray_serve()
        self._settings = settings
        self._keys = KeyRing(settings.keys_file) if settings.keys_file else None
        self._metrics = Metrics(RaySink())
        self._keeper = open_models(settings, self._metrics)

    def __serve_build_asgi_app__(self) -> "FastAPI":
        from serve.ingress import create_app

        return create_app(self._keeper, self._settings.limits, keys=self._keys, metrics=self._metrics)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new settings of batches while requests are under way."""
        changed = ServiceSettings(**{**dict(self._settings), "batching": Batching(**user_config)})
        self._keeper.set_batching(changed.batching)


def build(settings: ServiceSettings) -> serve.Application:
    """Return the application for `ray.serve.run`.

    Each replica loads all models before it takes its first request, so a service that answers is ready.
    """
    deployment = serve.deployment(
        serve.ingress()(Inspection),
        name=DEPLOYMENT,
        user_config=settings.batching.model_dump(),
        **_scaling(settings),
        # A replica that is to go answers what it has begun.
        graceful_shutdown_timeout_s=settings.limits.request_seconds + 10,
        # Ray's default of 5 would throttle here; the replica itself refuses inspections over its limit, as a problem.
        max_ongoing_requests=settings.limits.inspections + EXTRA_REQUESTS,
        max_queued_requests=EXTRA_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        logging_config=LoggingConfig(encoding="JSON", enable_access_log=False),  # our own line a request says more
    )
    return deployment.bind(settings)


def _scaling(settings: ServiceSettings) -> dict[str, Any]:
    """Return the deployment options that say how many replicas there are and what each reserves."""
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": settings.cpus or 1}}
    if settings.autoscaling is None:
        return options | {"num_replicas": settings.replicas}
    return options | {"autoscaling_config": AutoscalingConfig(**settings.autoscaling.model_dump())}


def _log_like_ray_serve() -> None:
    """Let our records go where Ray Serve writes this replica's log."""
    ours = logging.getLogger("serve")
    ours.handlers = logging.getLogger("ray.serve").handlers
    ours.setLevel(logging.INFO)
    ours.propagate = False
