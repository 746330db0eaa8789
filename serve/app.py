"""The Ray Serve application: a deployment with the routes and the models, and one more for each model that wants its own.

A replica of `inspection` is what clients reach; it passes on what the replicas of another deployment answer.
"""

# No `from __future__ import annotations`: from a config file (RayService, `serve deploy`) Ray Serve makes the argument of
# `build` out of plain values, and it reads the class from the annotation.
import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.schema import LoggingConfig

from serve.deployments import INGRESS, deployment_of, scaling
from serve.forwarding import Answered, Forwarded, answer
from serve.settings import Batching, ServiceSettings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve.handle import DeploymentHandle

    from serve.slots import ModelKeeper

# What Ray Serve lets into a replica, and in front of it, beyond its inspections: health, the page, and requests that are
# about to be refused as a problem. Only beyond this would Ray Serve itself answer 503, as plain text.
EXTRA_REQUESTS = 1000
# Likewise of a model's own replicas, which get requests that were let in already.
EXTRA_FORWARDED = 16

logger = logging.getLogger(__name__)


class Inspection:
    """One replica that clients reach: the routes, with its models loaded before the first request."""

    def __init__(self, settings: ServiceSettings, handles: "Mapping[str, DeploymentHandle[Any]] | None" = None) -> None:
        from serve.keys import KeyRing
        from serve.loading import open_models
        from serve.metrics import Metrics, RaySink
        from serve.remote import Deployments, RayModel

        _log_like_ray_serve()
        self._settings = settings
        self._keys = KeyRing(settings.keys_file) if settings.keys_file else None
        if self._keys is None:  # in the file alone: on this machine's own interface nothing is wrong with it
            logger.warning("No API keys: whoever reaches this service may use it.", extra={"log_to_stderr": False})
        self._metrics = Metrics(RaySink())
        self._keeper = open_models(settings, self._metrics)
        deployments = Deployments(_overviews(serve.get_replica_context().app_name) if handles else dict)
        self._remotes = {name: RayModel(name, handle, deployments) for name, handle in (handles or {}).items()}
        self._batches = Batches(settings, self._keeper)

    def __serve_build_asgi_app__(self) -> "FastAPI":
        from serve.ingress import create_app

        return create_app(
            self._keeper,
            self._settings.limits,
            keys=self._keys,
            hosts=self._settings.hosts,
            metrics=self._metrics,
            remotes=self._remotes,
        )

    def check_health(self) -> None:
        """Raise where an engine fails again and again: Ray Serve then starts another replica in place of this one."""
        self._keeper.check_health()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new settings of batches while requests are under way."""
        self._batches.take(user_config)


class ModelReplica:
    """One replica of a model in a deployment of its own: the same routes, for requests that `Inspection` passes on."""

    def __init__(self, settings: ServiceSettings) -> None:
        from serve.ingress import create_routes
        from serve.loading import open_models
        from serve.metrics import Metrics, RaySink

        _log_like_ray_serve()
        metrics = Metrics(RaySink())
        self._keeper = open_models(settings, metrics)
        self._batches = Batches(settings, self._keeper)
        self._app = create_routes(self._keeper, settings.limits, metrics=metrics, remotes={})
        self._following: asyncio.Task[None] | None = None

    async def answer(self, request: Forwarded) -> Answered:
        """Answer a request."""
        return await answer(self._app, request)

    def check_health(self) -> None:
        """As of `Inspection`."""
        self._keeper.check_health()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new settings of batches; Ray Serve calls it first when a replica starts, from then on it follows the others."""
        self._batches.take(user_config)
        self._following = self._following or asyncio.create_task(self._keeper.follow())


def build(settings: ServiceSettings) -> serve.Application:
    """Return the application for `ray.serve.run`.

    Each replica loads its models before it takes its first request, so a service that answers is ready.
    """
    common = {
        "user_config": settings.batching.model_dump(),
        # A replica that is to go answers what it has begun.
        "graceful_shutdown_timeout_s": settings.limits.request_seconds + 10,
        "logging_config": LoggingConfig(encoding="JSON", enable_access_log=False),  # our own line a request says more
    }
    handles = {
        name: serve.deployment(
            ModelReplica,
            name=deployment_of(name),
            **scaling(settings, name),
            max_ongoing_requests=settings.limits.inspections + EXTRA_FORWARDED,
            max_queued_requests=settings.limits.inspections,
            **common,
        ).bind(settings.of(name))
        for name in settings.alone
    }
    deployment = serve.deployment(
        serve.ingress()(Inspection),
        name=INGRESS,
        **scaling(settings),
        # Ray's default of 5 would throttle here; the replica itself refuses inspections over its limit, as a problem.
        max_ongoing_requests=settings.limits.inspections + EXTRA_REQUESTS * (1 + len(handles)),
        max_queued_requests=EXTRA_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        **common,
    )
    return deployment.bind(settings, handles)


class Batches:
    """The settings of batches of one replica, as Ray Serve hands them over: when it starts, and again whenever they change."""

    def __init__(self, settings: ServiceSettings, keeper: "ModelKeeper") -> None:
        self._settings = settings
        self._keeper = keeper
        self._started = False

    def take(self, user_config: dict[str, Any]) -> None:
        """Let them count from the next batch on; wrong ones are an error in the log once the replica runs.

        Raises:
            ValidationError: They are wrong, and the replica starts. Later Ray Serve would stop a replica that raises, all of
                them one after the other.
        """
        settings = self._settings
        try:
            changed = Batching(**user_config)
            # What a replica holds is fixed when it starts: a batch of every model must fit.
            ServiceSettings(**{**dict(settings), **dict(changed), "max_ongoing_requests": settings.limits.inspections})
        except ValidationError as error:
            if not self._started:
                raise
            reasons = "; ".join(f"{'.'.join(map(str, each['loc']))} {each['msg']}".strip() for each in error.errors())
            logger.error("This user_config is refused, and batches stay as they are: %s", reasons)
            return
        self._keeper.set_batching(changed)
        self._started = True
        logger.info("An engine call takes up to %d pictures from now on.", changed.max_batch_size)


def _overviews(application: str) -> Any:
    def read() -> Any:
        return serve.status().applications[application].deployments

    return read


def _log_like_ray_serve() -> None:
    """Let our records go where Ray Serve writes this replica's log."""
    ours = logging.getLogger("serve")
    ours.handlers = logging.getLogger("ray.serve").handlers
    ours.setLevel(logging.INFO)
    ours.propagate = False
