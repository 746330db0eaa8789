"""`changenet serve build`: the same service as a config file for Ray's own `serve deploy` and for KubeRay's `RayService`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from changenet import storage
from ray_jobs.serve_settings import APPLICATION, Chosen, choose
from serve.settings import ServiceSettings

# What Ray Serve changes in place: it restarts replicas for everything else.
_CHANGED_IN_PLACE = ("batching", "replicas", "autoscaling")
_HEADER = """# For `serve deploy`, or as serveConfigV2 of a RayService; made by `changenet serve build`.
# A change below `deployments` is made while the service runs; one of `args` starts new replicas.
"""

logger = logging.getLogger(__name__)


def run(given: Mapping[str, Any], out: str | None) -> int:
    """Write the config file, or print it.

    Args:
        given: Arguments of `ray_jobs.serve_settings.choose`, which see for errors.
        out: File to write; None: stdout.
    """
    chosen = choose(**given)
    if chosen.settings.encryption_key is not None:
        logger.warning("The passphrase is not written: add it below args as encryption_key where the file is deployed.")
    text = _HEADER + yaml.safe_dump(config(chosen), sort_keys=False, allow_unicode=True)
    if out is None:
        sys.stdout.write(text)
    else:
        storage.write_text(out, text)
    return 0


def config(chosen: Chosen) -> dict[str, Any]:
    """Return the content of the file, which Ray's `ServeDeploySchema` accepts."""
    settings = chosen.settings
    args = settings.model_dump(mode="json", exclude={*_CHANGED_IN_PLACE, "encryption_key"}, exclude_defaults=True)
    return {
        "proxy_location": "HeadOnly",
        "http_options": {
            "host": chosen.host,
            "port": chosen.port,
            "request_timeout_s": settings.limits.request_seconds + 10,
            **(chosen.tls.http_options() if chosen.tls else {}),
        },
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "serve.app:build",
                "args": args,
                "deployments": [{"name": "inspection", **_deployment(settings)}],
            }
        ],
    }


def _deployment(settings: ServiceSettings) -> dict[str, Any]:
    scaling: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.autoscaling:
        scaling = {"autoscaling_config": settings.autoscaling.model_dump()}
    return {
        **scaling,
        "ray_actor_options": {"num_cpus": settings.cpus or 1},
        "user_config": settings.batching.model_dump(),
    }
