"""The deployments of a service: their names, how many replicas each has, and where, as Ray Serve writes it."""

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
    """Return the options of a deployment that say how many replicas there are, where they go, and what each reserves.

    Args:
        settings: Of the service.
        model: One with replicas of its own; None: those that clients reach.
    """
    counts = settings if model is None else settings.alone[model]
    placed = settings if model is None else settings.of(model)
    idle = model is None and not settings.together
    reserved: dict[str, Any] = {"num_cpus": CPUS_WITHOUT_MODELS if idle else placed.cpus or 1}
    if placed.gpus and not idle:
        reserved["num_gpus"] = placed.gpus
    if placed.resources:
        reserved["resources"] = dict(placed.resources)
    options: dict[str, Any] = {"ray_actor_options": reserved}
    if placed.max_replicas_per_node is not None:
        options["max_replicas_per_node"] = placed.max_replicas_per_node
    if counts.autoscaling.is_on:
        return {"autoscaling_config": counts.autoscaling.model_dump()} | options
    return {"num_replicas": counts.replicas} | options
