"""How an action is spread over a cluster: how many workers, with what."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from changenet.errors import SpecError
from changenet.spec.rendering import flow
from changenet.spec.workers import RayWorkers
from ray_jobs import cluster, growth

logger = logging.getLogger(__name__)

JOIN_TIME = 300.0  # seconds that nodes of a cluster without an autoscaler may need to join
TRIALS_A_NODE = 4  # that share a node's CPUs: more learn little from each other, and each holds its own pictures


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


def plan_workers(section: RayWorkers, *, asked_gpus: int, together: bool = True) -> Workers:
    """Return the workers that `train.ray`, `evaluate.ray` or `inference.ray` asks for, on the cluster that is connected.

    Without `num_workers`: one a GPU that the spec asks for where there are GPUs, else one. The CPUs are shared out equally,
    as far as a worker finds its share on one node; of a number of workers that may grow, each takes one at least.

    `use_gpu: true` waits for GPUs that the cluster's autoscaler can bring. Asking for GPUs where there are none is else the
    CPU, with one warning. Workers for which the cluster is too small are waited for as well, for `JOIN_TIME` at most where
    nothing says that it will grow.

    Args:
        section: `num_workers`, `use_gpu`, `resources_per_worker`.
        asked_gpus: GPUs that the action asks for over all nodes (TAO's `num_gpus` and `num_nodes`).
        together: The workers start together or not at all; else each works as soon as it has room.

    Raises:
        SpecError: The cluster has no room for the fewest workers, and none comes.
    """
    nodes = cluster.nodes()
    resources = dict(section.resources_per_worker or {})
    gpus_each = resources.pop("GPU", None)
    if section.use_gpu and not any(gpus for _, gpus in nodes):
        least = section.num_workers or asked_gpus
        bundles = [{**resources, "GPU": 1}] * (least if isinstance(least, int) else least[0])
        if growth.wait_for(bundles):
            nodes = cluster.nodes()
    gpus = sum(gpus for _, gpus in nodes)
    use_gpu = gpus > 0 and section.use_gpu is not False
    if not gpus and (section.use_gpu or asked_gpus > 1):
        logger.warning("The spec asks for GPUs and there are none: the CPU is used.")
    if use_gpu and not section.num_workers and asked_gpus > gpus:
        logger.warning("The spec asks for %d GPUs and there are %g: those are used.", asked_gpus, gpus)
    wanted = section.num_workers or (min(asked_gpus, int(gpus)) if use_gpu else 1)
    fewest, most = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    share = resources.pop("CPU", None)
    if not share:
        share = _share(nodes, most, use_gpu=use_gpu)
        share = share if fewest == most else max(1.0, share)
    share = _countable(share)
    if gpus_each is not None and gpus_each != use_gpu:
        logger.warning("resources_per_worker.GPU is %g, but a worker gets %d: use_gpu decides.", gpus_each, use_gpu)
    _make_room({**resources, "CPU": share, "GPU": int(use_gpu)}, fewest, needed=fewest if together else 1)
    return Workers((fewest, most), share, use_gpu, resources)


def _make_room(bundle: Mapping[str, float], workers: int, *, needed: int) -> None:
    """Wait until the cluster is large enough for the workers that are needed.

    Raises:
        SpecError: It does not grow.
    """
    each = {name: value for name, value in bundle.items() if value}
    room = cluster.room_for(each)
    if room >= needed:
        if room < workers:
            what = "%d worker(s) with %s each were asked for and there is room for %d: those do the work until there is more."
            logger.warning(what, workers, flow(each), room)
        return
    if growth.wait_for([each] * needed, patience=0 if cluster.is_own() else JOIN_TIME):
        return
    if (room := cluster.room_for(each)) < needed:  # else it has grown, and others are at work there
        what = f"{needed} worker(s) with {flow(each)} each do not fit the cluster, which has room for {room}"
        fix = "Ask for fewer workers or resources (num_workers, resources_per_worker, use_gpu), or let more nodes join first."
        raise SpecError(what, where="ray.num_workers", fix=fix)


def plan_trials(section: RayWorkers, *, asked_gpus: int, trials: int, limit: int | None) -> tuple[Workers, int]:
    """Return the workers of each trial of a sweep, and how many trials run at once.

    The processes that drive trials take no CPU, and the workers of a trial start together or not at all: whatever the
    numbers, no trial waits for what another one holds while that one waits too.

    Args:
        section: `train.ray`.
        asked_gpus: GPUs that one trial asks for.
        trials: Trials in all.
        limit: `max_concurrent_trials`; None for what the cluster carries. With `resources_per_worker` it may be more than
            that: the trials above it wait until the cluster grows.

    Raises:
        SpecError: The cluster has no room for one trial, and none comes.
    """
    # Of a cluster without CPUs yet, what comes for the first trial is not for all of them.
    written = "CPU" in (section.resources_per_worker or {}) or not any(cpus for cpus, _ in cluster.nodes())
    workers = plan_workers(section, asked_gpus=asked_gpus)
    each = workers.count[1]
    nodes = [(cpus, gpus) for cpus, gpus in cluster.nodes() if cpus]
    if written:
        fitting = sum(int(cpus / workers.cpus + 1e-6) for cpus, _ in nodes) // each
    else:
        fitting = min(int(sum(cpus for cpus, _ in nodes) / each), TRIALS_A_NODE * len(nodes))
    if workers.use_gpu:
        fitting = min(fitting, int(sum(gpus for _, gpus in nodes) / each))
    at_once = min(limit or max(1, fitting), trials)
    if written:
        return workers, at_once
    return replace(workers, cpus=_countable(_share(nodes, each * at_once, use_gpu=workers.use_gpu))), at_once


def _share(nodes: Sequence[tuple[float, float]], workers: int, *, use_gpu: bool) -> float:
    """Return the most CPUs with which so many workers find room, each on one node; one where there are no CPUs yet.

    Args:
        nodes: CPUs and GPUs of each.
        workers: How many.
        use_gpu: Each takes a GPU too. Where there are too few of them, all CPUs are shared by all workers.
    """
    rooms = [(cpus, int(gpus) if use_gpu else workers) for cpus, gpus in nodes if cpus and (gpus or not use_gpu)]
    if not rooms:
        return 1.0
    for share in sorted({cpus / count for cpus, _ in rooms for count in range(1, workers + 1)}, reverse=True):
        if sum(min(int(cpus / share + 1e-6), room) for cpus, room in rooms) >= workers:
            return share
    return min(sum(cpus for cpus, _ in nodes) / workers, max(cpus for cpus, _ in rooms))


def _countable(share: float) -> float:
    """Return a share of CPUs in the steps that Ray counts in."""
    return int(share) if share > 1 else math.floor(1e4 * share) / 1e4
