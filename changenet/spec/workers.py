"""`ACTION.ray`: our own keys that say how many workers an action gets on the cluster, and with what."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from changenet.spec.section import Integer, Positive, Resources, Section


class RayWorkers(Section):
    """How an action is spread over the cluster."""

    num_workers: Positive | tuple[Positive, Positive] | None = Field(
        default=None, description="Workers, or [min, max]. Unset: num_gpus x num_nodes where GPUs exist, else 1."
    )
    use_gpu: bool | None = Field(default=None, description="One GPU a worker. Unset: when the cluster has GPUs.")
    resources_per_worker: Resources | None = Field(
        default=None, description="Ray resources a worker, such as {CPU: 4}. Unset: all CPUs divided by the workers."
    )

    storage_path: str | None = Field(
        default=None,
        description="Folder or URI that all nodes reach, for Ray's own snapshots of training. Unset: the train folder.",
    )
    max_failures: Annotated[Integer, Field(ge=-1)] = Field(
        default=0, description="Restarts of the training workers after a failure; -1 = without limit."
    )
