"""`ACTION.ray`: our own keys that say how many workers an action gets on the cluster, and with what."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from changenet.spec.section import Integer, Positive, Resources, Section


class RayWorkers(Section):
    """How an action is spread over the cluster."""

    num_workers: Positive | tuple[Positive, Positive] | None = Field(
        default=None,
        description="Workers, or [min, max]: as many as the cluster has room for, more when it grows, fewer when it shrinks. "
        "Unset: num_gpus x num_nodes where GPUs exist, else 1.",
    )
    use_gpu: bool | None = Field(
        default=None,
        description="One GPU a worker; true waits for GPUs that the cluster can bring. Unset: when the cluster has GPUs.",
    )
    resources_per_worker: Resources | None = Field(
        default=None, description="Ray resources a worker, such as {CPU: 4}. Unset: all CPUs divided by the workers."
    )

    storage_path: str | None = Field(
        default=None,
        description="Folder or URI that all nodes reach, for Ray's own snapshots of training. Unset: the train folder.",
    )
    max_failures: Annotated[Integer, Field(ge=-1)] = Field(
        default=0,
        description="Restarts of the training workers after a failure, from the last checkpoint; -1 = without limit.",
    )


def unshared_batch(batch: int, fewest: int, most: int) -> tuple[str, str] | None:
    """Return what is wrong with a training batch that `fewest` to `most` workers cannot share equally, and what to do.

    None: each of these numbers of workers can.
    """
    unequal = next((count for count in range(fewest, most + 1) if batch % count or batch < 2 * count), None)
    if unequal is None:
        return None
    every = math.lcm(*range(fewest, most + 1))
    return (
        f"is {batch}, which cannot be shared by {unequal} workers: it counts the pairs of all workers together",
        f"Use a multiple of {every}, at least {every * -(-2 * most // every)}, or other train.ray.num_workers.",
    )
