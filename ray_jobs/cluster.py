"""Joining a Ray cluster, or starting a local Ray in this process."""

from __future__ import annotations

import logging
import os

# Ray reads these when it is imported or started; nothing about a user's run leaves the machine.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")


def connect(address: str | None = None) -> None:
    """Join the cluster at `address` (or at `RAY_ADDRESS`); without either start a local Ray in this process.

    A Ray that this process is already connected to is kept.
    """
    import ray

    if ray.is_initialized():
        return
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    local = {"include_dashboard": False} if target == "local" else {}
    ray.init(
        address=target,
        configure_logging=True,
        logging_level=logging.ERROR,
        log_to_driver=True,
        runtime_env={"env_vars": {"RAY_USAGE_STATS_ENABLED": "0"}},
        **local,
    )


def cluster_resources() -> tuple[float, float]:
    """Return the CPUs and GPUs of the whole cluster."""
    import ray

    resources = ray.cluster_resources()
    return float(resources.get("CPU", 1)), float(resources.get("GPU", 0))
