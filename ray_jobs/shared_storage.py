"""Whether all machines of a cluster see the same folders: those that are there when a run starts, and those that join it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from changenet import storage
from changenet.errors import DataError, Problem
from changenet.spec import Experiment

Paths: TypeAlias = Mapping[str, str]

TIMEOUT = 60.0  # seconds; a node that does not answer is not judged
MARKER = ".run-"  # begins the name of the file by which workers know the results folder of their run
_FIX = "Use a place that all nodes mount at the same path; checkpoints and results may also be URIs such as s3://."


def check_shared(experiment: Experiment, splits: Sequence[str], *, read: Paths, written: Paths) -> None:
    """Make sure that every node of the connected cluster sees what this machine sees (see `check_here` for later ones).

    Args:
        experiment: The spec, which names the folders of pictures.
        splits: Those whose pictures are read: `train`, `validation`, `test`, `infer`.
        read: Further files and folders that are read, by the key of the spec that names them. URIs are left out.
        written: Folders that are written, likewise.

    Raises:
        DataError: Some node does not see a file or folder: each, with the nodes.
    """
    import ray

    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) == 1 and not ray.util.client.ray.is_connected():
        return
    shown = {**read, **written, **_pictures(experiment, splits)}
    shown = {key: storage.absolute(path) for key, path in shown.items() if not storage.is_uri(path)}
    # A folder of that name may be anywhere: only a file that was just written shows that it is the same one.
    markers = {key: storage.join(shown[key], f".seen-{uuid.uuid4().hex[:8]}") for key in written if key in shown}
    for marker in markers.values():
        storage.write_text(marker, "")
    try:
        unseen = _unseen(nodes, {**shown, **markers})
    finally:
        for marker in markers.values():
            storage.remove(marker)
    _refuse({key: f"{shown[key]} is not seen by {', '.join(names)}" for key, names in unseen.items()})


def mark(folder: str, run: str) -> None:
    """Leave the mark of a run in its results folder, in the place of the one of the run before.

    Args:
        folder: Path or URI.
        run: A name that no other run has.
    """
    if storage.is_uri(folder):
        return
    for old in storage.names_inside(folder):
        if old.startswith(MARKER):
            storage.remove(storage.join(folder, old))
    storage.write_text(storage.join(folder, MARKER + run), "")


def check_here(experiment: Experiment, folder: str, run: str) -> None:
    """Make sure that this worker sees the results folder and the pictures of its run: its node may have joined since.

    Args:
        experiment: The spec.
        folder: Where the run's files go; a folder of that name without the run's mark is another one.
        run: What the mark was made with.

    Raises:
        DataError: It does not: each folder, with the node.
    """
    import ray

    paths = _pictures(experiment, ("train", "validation"))
    if not storage.is_uri(folder):
        paths["results_dir"] = storage.join(folder, MARKER + run)
    if missing := _missing(paths):
        shown, node = {**paths, "results_dir": folder}, ray.util.get_node_ip_address()
        _refuse({key: f"{shown[key]} is not seen by {node}" for key in missing})


def _pictures(experiment: Experiment, splits: Sequence[str]) -> dict[str, str]:
    """Return the folders of pictures, by key."""
    folders = {split: getattr(experiment.dataset.classify, f"{split}_dataset").images_dir for split in splits}
    return {f"dataset.classify.{split}_dataset.images_dir": folder for split, folder in folders.items() if folder}


def _refuse(unseen: Mapping[str, str]) -> None:
    if unseen:
        raise DataError([Problem(what, where=key, fix=_FIX) for key, what in unseen.items()])


def _unseen(nodes: Mapping[str, str], paths: Paths) -> dict[str, list[str]]:
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


def _missing(paths: Paths) -> list[str]:
    return [key for key, path in paths.items() if not Path(path).exists()]
