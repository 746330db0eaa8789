"""What must fit together in the section `serve`, and in what a service is told."""

from __future__ import annotations

from collections.abc import Iterator

from changenet.spec.finding import Finding
from changenet.spec.serve import Autoscaling, Placement, ServedModel, Service

_PLACEMENT = tuple(Placement.model_fields)


def check_serve(serve: Service) -> Iterator[Finding]:
    """Yield every contradiction of the section."""
    yield from _names(serve)
    for model in serve.models:
        yield from _replicas(model)
    yield from _scaling(serve.autoscaling, "serve.autoscaling")
    yield from _batches(serve)


def _names(serve: Service) -> Iterator[Finding]:
    shares: dict[str, list[float]] = {}
    for model in serve.models:
        shares.setdefault(model.name, []).append(model.traffic)
    for name, traffic in sorted(shares.items()):
        if traffic.count(1.0) > 1 or len(traffic) > 2:
            yield Finding(("serve.models",), f"names {name!r} twice", "Give every model a name of its own.")
        elif 1.0 not in traffic:
            what = f"has a shadow {name!r} of nothing"
            yield Finding(("serve.models",), what, "Name the bundle that answers too, with traffic 1.")


def _replicas(model: ServedModel) -> Iterator[Finding]:
    scales = model.autoscaling.is_on
    placed = [key for key in _PLACEMENT if getattr(model, key) != Placement.model_fields[key].default]
    if model.traffic < 1 and (placed or model.replicas is not None):
        what = f"gives the shadow of {model.name!r} replicas, but it runs in those of the model that answers"
        yield Finding(("serve.models",), what, "Say it at the entry with traffic 1.")
    elif scales and model.replicas is not None:
        what = f"gives {model.name!r} both replicas and autoscaling"
        yield Finding(("serve.models",), what, "Leave one out.")
    elif not scales and model.autoscaling != Autoscaling():
        what = f"has autoscaling of {model.name!r} without max_replicas, which does nothing"
        yield Finding(("serve.models",), what, "Say how many replicas there may be.")
    elif placed and not model.is_alone:
        what = f"gives {model.name!r} {', '.join(placed)}, but it shares the replicas of the service"
        yield Finding(("serve.models",), what, "Give it replicas of its own, or say it for the service.")
    yield from _scaling(model.autoscaling, "autoscaling", where="serve.models", of=f" of {model.name!r}")


def _scaling(scaling: Autoscaling, prefix: str, *, where: str | None = None, of: str = "") -> Iterator[Finding]:
    if scaling.max_replicas is not None and scaling.max_replicas < scaling.min_replicas:
        about = f"{prefix}.max_replicas{of} " if where else ""
        yield Finding(
            (where or f"{prefix}.max_replicas",),
            f"{about}is {scaling.max_replicas}, but {prefix}.min_replicas is {scaling.min_replicas}",
            "Use as many or more.",
        )


def _batches(serve: Service) -> Iterator[Finding]:
    if serve.max_ongoing_requests is not None and serve.max_ongoing_requests < serve.batches:
        models = len(serve.together)
        held = f" and a replica holds {models} models" if models > 1 else ""
        yield Finding(
            ("serve.max_ongoing_requests", "serve.max_batch_size"),
            f"is {serve.max_ongoing_requests}, but serve.max_batch_size is {serve.max_batch_size}{held}: no batch could fill",
            f"Use {serve.batches} or more, or leave it out.",
        )
