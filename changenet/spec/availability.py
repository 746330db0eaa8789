"""What the spec may say but this version cannot do yet. Remove an entry here when its feature arrives."""

from __future__ import annotations

from collections.abc import Iterator

from changenet.spec import encoders
from changenet.spec.cross_checks import Finding
from changenet.spec.experiment import Experiment


def unavailable(experiment: Experiment) -> Iterator[Finding]:
    """Yield what a network of this experiment would need and this version does not have."""
    name = experiment.model.backbone.type
    if encoders.family(name) == "vit":
        yield Finding(
            ("model.backbone.type",),
            f"is {name!r}: ViT encoders are not available in this version",
            f"Use {', '.join(encoders.FAN_NAMES)} or timm/NAME.",
        )


def unavailable_task(experiment: Experiment) -> Iterator[Finding]:
    """Yield the task that this version cannot do."""
    if experiment.task == "segment":
        yield Finding(("task",), "is 'segment': segmentation is not available in this version", "Use task: classify.")
