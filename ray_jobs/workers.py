"""How an action is spread over a cluster: how many workers, with what."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from changenet.spec.workers import RayWorkers
from ray_jobs import cluster

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """The workers of an action.

    Args:
        count: (fewest, most) workers.
        cpus: CPUs of each: the threads of a training worker, the batches that a scoring worker works on at once.
        use_gpu: One GPU a worker.
        resources: Further Ray resources of each.
    """

    count: tuple[int, int] = (1, 1)
    cpus: int = 1
    use_gpu: bool = False
    resources: dict[str, float] = field(default_factory=dict)


def plan_workers(section: RayWorkers, *, asked_gpus: int) -> Workers:
    """Return the workers that `train.ray`, `evaluate.ray` or `inference.ray` asks for, on the cluster that is connected.

    Without `num_workers`: one a GPU that the spec asks for where there are GPUs, else one. Asking for GPUs where there are
    none is the CPU, with one warning. The CPUs are shared out equally.

    Args:
        section: `num_workers`, `use_gpu`, `resources_per_worker`.
        asked_gpus: GPUs that the action asks for over all nodes (TAO's `num_gpus` and `num_nodes`).
    """
    cpus, gpus = cluster.cluster_resources()
    use_gpu = gpus > 0 and section.use_gpu is not False
    if not gpus and (section.use_gpu or asked_gpus > 1):
        logger.warning("The spec asks for GPUs and there are none: the CPU is used.")
    wanted = section.num_workers or (min(asked_gpus, int(gpus)) if use_gpu else 1)
    fewest, most = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    resources = dict(section.resources_per_worker or {})
    share = resources.pop("CPU", None) or cpus / most
    resources.pop("GPU", None)
    return Workers((fewest, most), max(1, int(share)), use_gpu, resources)
