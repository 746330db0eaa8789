"""What the spec may say but this version cannot do yet. Remove an entry here when its feature arrives."""

from __future__ import annotations

from collections.abc import Iterator

from changenet.spec.experiment import Experiment
from changenet.spec.finding import Finding

UNREAD_SECTIONS = ("dataset.segment", "train.segment")  # TAO's specs carry them whatever the task: no warning


def unavailable_task(experiment: Experiment) -> Iterator[Finding]:
    """Yield the task that this version cannot do."""
    if experiment.task == "segment":
        yield Finding(("task",), "is 'segment': segmentation is not available in this version", "Use task: classify.")
