"""Waiting for a cluster to grow: Ray's autoscaler is asked for machines that are not there yet."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

logger = logging.getLogger(__name__)

PERIOD = 2.0  # seconds between two looks
FIRST_ANSWER = 60.0  # seconds that the autoscaler of a cluster that has just begun may need
REMINDER = 300.0  # seconds after which it is said again what is waited for

Answer: TypeAlias = Literal["never", "asked", "not begun", "no autoscaler"]


def wait_for(bundles: Sequence[Mapping[str, float]], *, patience: float = 0.0) -> bool:
    """Ask for room for all bundles of resources at once, and wait until it is there, however long that takes.

    The room is given back at once; what was started for it stays until it has been idle for the cluster's time-out.

    Args:
        bundles: Ray resources, each to be had on one node.
        patience: Seconds that machines may need to join where there is no autoscaler that says what will come.

    Returns:
        False when nothing grows this cluster, or its autoscaler says that it never has room for them.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    answer_of = ray.remote(num_cpus=0, max_retries=3)(_answer)
    group = placement_group([dict(bundle) for bundle in bundles])
    limits = {"never": 0.0, "no autoscaler": patience, "not begun": FIRST_ANSWER}
    began = time.monotonic()
    next_word = began
    try:
        while not group.wait(PERIOD):
            answer: Answer = ray.get(answer_of.remote(group.id.hex()))
            now = time.monotonic()
            if now - began >= limits.get(answer, math.inf):
                return False
            if answer != "not begun" and now >= next_word:
                next_word = now + REMINDER
                what = (len(bundles), dict(bundles[0]))
                if answer == "asked":
                    logger.info("Waiting for the cluster to grow: %d x %s. `ray status` shows what comes.", *what)
                else:
                    logger.warning("Waiting %g s at most for nodes to join: %d x %s.", patience, *what)
        return True
    finally:
        remove_placement_group(group)


def _answer(group: str) -> Answer:
    """Say what is known about the room for a placement group.

    Runs on the cluster, whose state a Ray Client does not reach.

    Args:
        group: The id of the placement group.
    """
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    state_of_cluster = GcsClient(address=ray.get_runtime_context().gcs_address)
    if not is_autoscaler_v2(fetch_from_server=True, gcs_client=state_of_cluster):
        return "no autoscaler"
    state = GetClusterStatusReply.FromString(state_of_cluster.get_cluster_status()).autoscaling_state
    if not state.autoscaler_state_version:
        return "not begun"
    return (
        "never" if any(each.details.startswith(group) for each in state.infeasible_gang_resource_requests) else "asked"
    )
