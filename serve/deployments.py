"""The deployments of a service: their names, and how many replicas each has, as Ray Serve writes it."""

from __future__ import annotations

from typing import Any

from serve.settings import ServiceSettings

INGRESS = "inspection"
# Of a replica that only passes requests on. Not 0: a head node that is to do no work has as many.
CPUS_WITHOUT_MODELS = 0.1


def deployment_of(model: str) -> str:
    """Return the name of the deployment of a model with replicas of its own."""
    return f"{INGRESS}-{model}"


def scaling(settings: ServiceSettings, model: str | None = None) -> dict[str, Any]:
    """Return the options of a deployment that say how many replicas there are, and what each reserves.

    Args:
        settings: Of the service.
        model: One with replicas of its own; None: those that clients reach.
    """
    counts = settings if model is None else settings.alone[model]
    idle = model is None and not settings.together
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": CPUS_WITHOUT_MODELS if idle else settings.cpus or 1}}
    if counts.autoscaling is None:
        return {"num_replicas": counts.replicas} | options
    return {"autoscaling_config": counts.autoscaling.model_dump()} | options
