"""How an action is spread over a cluster: how many workers, with what."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

from changenet.spec.workers import RayWorkers
from ray_jobs import cluster

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """The workers of an action.

    Args:
        count: (fewest, most) workers.
        cpus: CPUs of each; less than one where there are more workers than CPUs.
        use_gpu: One GPU a worker.
        resources: Further Ray resources of each.
    """

    count: tuple[int, int] = (1, 1)
    cpus: float = 1
    use_gpu: bool = False
    resources: dict[str, float] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """The threads of a training worker, the batches that a scoring worker works on at once."""
        return max(1, int(self.cpus))


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
    if use_gpu and not section.num_workers and asked_gpus > gpus:
        logger.warning("The spec asks for %d GPUs and there are %g: those are used.", asked_gpus, gpus)
    wanted = section.num_workers or (min(asked_gpus, int(gpus)) if use_gpu else 1)
    fewest, most = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    resources = dict(section.resources_per_worker or {})
    share = resources.pop("CPU", None) or cpus / most
    share = int(share) if share > 1 else math.floor(1e4 * share) / 1e4  # Ray counts in these steps
    gpus_each = resources.pop("GPU", None)
    if gpus_each is not None and gpus_each != use_gpu:
        logger.warning("resources_per_worker.GPU is %g, but a worker gets %d: use_gpu decides.", gpus_each, use_gpu)
    for kind, needed, there in (("CPUs", fewest * share, cpus), ("GPUs", fewest * use_gpu, gpus)):
        if needed > there + 1e-6:
            logger.warning(
                "%d worker(s) need %g %s and the cluster has %g: they wait until it grows.", fewest, needed, kind, there
            )
    return Workers((fewest, most), share, use_gpu, resources)
