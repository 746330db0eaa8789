"""Whether all machines of a cluster see the same folders."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from changenet import storage
from changenet.errors import DataError, Problem
from changenet.spec import Experiment

TIMEOUT = 60.0  # seconds; a node that does not answer is not judged


def check_shared(results: str, experiment: Experiment, splits: Sequence[str]) -> None:
    """Make sure that every node of the connected cluster sees the results and the pictures of this machine.

    Nodes that join later are not asked.

    Args:
        results: Folder that is written; local path or URI.
        experiment: The spec, which names the folders of pictures.
        splits: Those that are read: `train`, `validation`, `test`, `infer`.

    Raises:
        DataError: Some node does not see a folder: every folder, with the nodes.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    nodes.pop(here, None)
    if not nodes:
        return
    marker = storage.join(results, f".seen-{uuid.uuid4().hex[:8]}")
    paths = {} if storage.is_uri(results) else {"results_dir": storage.absolute(marker)}
    for split in splits:
        if folder := getattr(experiment.dataset.classify, f"{split}_dataset").images_dir:
            paths[f"dataset.classify.{split}_dataset.images_dir"] = storage.absolute(folder)
    if "results_dir" in paths:
        storage.write_text(marker, "")
    try:
        unseen = _unseen(nodes, paths)
    finally:
        storage.remove(marker)
    if unseen:
        shown = {**paths, "results_dir": storage.absolute(results)}
        fix = "Use a folder that all nodes mount at the same path; results may go to a URI such as s3://."
        raise DataError(
            [
                Problem(f"{shown[key]} is not seen by {', '.join(names)}", where=key, fix=fix)
                for key, names in unseen.items()
            ]
        )


def _unseen(nodes: Mapping[str, str], paths: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the keys whose path some nodes do not have, and the addresses of these nodes."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look: Any = ray.remote(num_cpus=0, max_retries=0)(_missing)
    answers = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(dict(paths)): address
        for node, address in nodes.items()
    }
    ready, _ = ray.wait(list(answers), num_returns=len(answers), timeout=TIMEOUT)
    unseen: dict[str, list[str]] = {}
    for answer in ready:
        try:
            missing = ray.get(answer)
        except ray.exceptions.RayError:
            continue
        for key in missing:
            unseen.setdefault(key, []).append(answers[answer])
    return unseen


def _missing(paths: Mapping[str, str]) -> list[str]:
    return [key for key, path in paths.items() if not Path(path).exists()]
