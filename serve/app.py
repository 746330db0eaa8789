"""The Ray Serve application: one deployment whose replicas hold the routes, the models and their engines."""

# No `from __future__ import annotations`: from a config file (RayService, `serve deploy`) Ray Serve makes the argument of
# `build` out of plain values, and it reads the class from the annotation.
import logging
from typing import TYPE_CHECKING

from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.schema import LoggingConfig

from serve.settings import ServiceSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

DEPLOYMENT = "inspection"
# What Ray Serve lets into a replica, and in front of it, beyond its inspections: health, the page, and requests that are
# about to be refused as a problem. Only beyond this would Ray Serve itself answer 503, as plain text.
EXTRA_REQUESTS = 1000


def build(settings: ServiceSettings) -> serve.Application:
    """Return the application for `ray.serve.run`.

    Each replica loads all models before it takes its first request, so a service that answers is ready.
    """

    def replica() -> "FastAPI":
        from serve.ingress import create_app
        from serve.inspector import load_models
        from serve.keys import KeyRing
        from serve.metrics import Metrics, RaySink

        _log_like_ray_serve()
        keys = KeyRing(settings.keys_file) if settings.keys_file else None
        metrics = Metrics(RaySink())
        return create_app(load_models(settings, metrics), settings.limits, keys=keys, metrics=metrics)

    deployment = serve.deployment(
        serve.ingress(replica)(),
        name=DEPLOYMENT,
        # Ray's default of 5 would throttle here; the replica itself refuses inspections over its limit, as a problem.
        max_ongoing_requests=settings.limits.inspections + EXTRA_REQUESTS,
        max_queued_requests=EXTRA_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        logging_config=LoggingConfig(encoding="JSON", enable_access_log=False),  # our own line a request says more
    )
    return deployment.bind()


def _log_like_ray_serve() -> None:
    """Let our records go where Ray Serve writes this replica's log."""
    ours = logging.getLogger("serve")
    ours.handlers = logging.getLogger("ray.serve").handlers
    ours.setLevel(logging.INFO)
    ours.propagate = False
