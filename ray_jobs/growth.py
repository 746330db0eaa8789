"""Waiting for a cluster to grow: Ray's autoscaler is asked for machines that are not there yet."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

PERIOD = 2.0  # seconds between two looks
FIRST_ANSWER = 60.0  # seconds that the autoscaler of a cluster that has just begun may need


def wait_for(bundles: Sequence[Mapping[str, float]]) -> bool:
    """Ask for room for all bundles of resources at once, and wait until it is there, however long that takes.

    The room is given back at once; what was started for it stays until it has been idle for the cluster's time-out.

    Args:
        bundles: Ray resources, each to be had on one node.

    Returns:
        False when nothing grows this cluster, or its autoscaler says that it never has room for them.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    refuses = ray.remote(num_cpus=0, max_retries=3)(_refuses)
    group = placement_group([dict(bundle) for bundle in bundles])
    deadline = time.monotonic() + FIRST_ANSWER
    said = False
    try:
        while not group.wait(PERIOD):
            refused = ray.get(refuses.remote(group.id.hex()))
            if refused or (refused is None and time.monotonic() > deadline):
                return False
            if refused is False and not said:
                said = True
                logger.info("Waiting for the cluster to grow: %d x %s.", len(bundles), dict(bundles[0]))
        return True
    finally:
        remove_placement_group(group)


def _refuses(group: str) -> bool | None:
    """Say whether nothing will ever make room for a placement group; None while the autoscaler has not begun.

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
        return True
    state = GetClusterStatusReply.FromString(state_of_cluster.get_cluster_status()).autoscaling_state
    if not state.autoscaler_state_version:
        return None
    return any(request.details.startswith(group) for request in state.infeasible_gang_resource_requests)
