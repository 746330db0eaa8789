"""`changenet serve build`: the same service as a config file for Ray's own `serve deploy` and for KubeRay's `RayService`."""

from __future__ import annotations

import logging
import sys
from typing import Any

import yaml

from changenet import storage
from changenet.export.targets import check_files
from ray_jobs.serve_check import check_bundles
from ray_jobs.serve_settings import APPLICATION, Chosen, choose, http_options, warn_if_open
from serve.deployments import INGRESS, deployment_of, scaling
from serve.settings import ServiceSettings

# What the deployments say. Batches are in `args` too, as limits must fit them there, and so are CPUs and GPUs, which engines use.
_ELSEWHERE = ("replicas", "autoscaling", "resources", "max_replicas_per_node")
_HEADER = """# For `serve deploy`, or as serveConfigV2 of a RayService; made by `changenet serve build`.
# A change below `deployments` is made while the service runs, and wins over `args`; one of `args` starts new replicas.
"""

logger = logging.getLogger(__name__)


def run(out: str | None = None, *, overwrite: bool = False, **given: Any) -> int:
    """Write the config file, or print it.

    Args:
        out: File to write; None: stdout.
        overwrite: Replace an earlier file.
        given: Arguments of `ray_jobs.serve_settings.choose`, which see for errors.

    Raises:
        SpecError: A bundle that is seen from here cannot be used.
        CheckpointError: The file is there, and may not be replaced.
    """
    check_files([out] if out else [], bundle=None, overwrite=overwrite)
    chosen = choose(**given)
    warn_if_open(chosen.settings, host=chosen.host, tls=chosen.tls)
    away = check_bundles(chosen.settings)
    for model in away:
        logger.warning("Not verified: %r (%s) is not seen from here, only by the replicas.", model.name, model.bundle)
    if chosen.settings.encryption_key is not None:
        fix = "name a file that holds it, and that every replica sees, below args: encryption_key_file"
        logger.warning("The passphrase is not written: %s.", fix)
    text = _HEADER + yaml.safe_dump(config(chosen), sort_keys=False, allow_unicode=True)
    if out is None:
        sys.stdout.write(text)
    else:
        storage.write_text(out, text)
        logger.info("Wrote %s. On a machine with a Ray: serve deploy %s", out, out)
    return 0


def config(chosen: Chosen) -> dict[str, Any]:
    """Return the content of the file, which Ray's `ServeDeploySchema` accepts."""
    settings = chosen.settings
    args = settings.model_dump(mode="json", exclude={*_ELSEWHERE, "encryption_key"}, exclude_defaults=True)
    return {
        "proxy_location": "EveryNode",  # every one with a replica, and the head: a service of Kubernetes asks them all
        "http_options": http_options(settings, host=chosen.host, port=chosen.port, tls=chosen.tls),
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "serve.app:build",
                "args": args,
                "deployments": [_deployment(settings), *(_deployment(settings, name) for name in settings.alone)],
            }
        ],
    }


def _deployment(settings: ServiceSettings, model: str | None = None) -> dict[str, Any]:
    name = INGRESS if model is None else deployment_of(model)
    return {"name": name, **scaling(settings, model), "user_config": settings.batching.model_dump()}
