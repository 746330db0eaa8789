"""The trained network that a section of the spec names: whether it is there, and of the kind that the action takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from changenet import storage
from changenet.bundle import is_bundle
from changenet.errors import CheckpointError, SpecError
from changenet.spec import Experiment
from changenet.spec.actions import Scoring, runs_engine_file


def checkpoint_path(experiment: Experiment, action: Literal["evaluate", "inference", "export", "quantize"]) -> str:
    """Return the checkpoint (or bundle, or TensorRT engine) that an action's section names.

    Raises:
        SpecError: It names none.
        CheckpointError: There is none, or it is a folder where a checkpoint is needed.
    """
    section = getattr(experiment, action)
    name = "model_path" if action == "quantize" else "checkpoint"
    if isinstance(section, Scoring) and runs_engine_file(section):
        name = "trt_engine"
    key = f"{action}.{name}"
    path: str | None = getattr(section, name)
    if not path:
        example = storage.join(experiment.action_dir("train"), "model_best.pth")
        kinds = "a checkpoint or a bundle folder" if isinstance(section, Scoring) else "a checkpoint"
        raise SpecError("not given", where=key, fix=f"Name {kinds}, such as {example}.")
    if not storage.exists(path):
        fix = "Run changenet train first, or name another file."
        raise CheckpointError(f"there is no {path}", where=key, fix=fix)
    if not isinstance(section, Scoring) and (is_bundle(path) or Path(path).is_dir()):
        what = f"{path} is a {'bundle' if is_bundle(path) else 'folder'}, and {action} takes a checkpoint"
        raise CheckpointError(what, where=key, fix=f"Name a .pth file{_exported_from(path)}.")
    return path


def _exported_from(path: str) -> str:
    return ", the one that the bundle was exported from" if is_bundle(path) else ", such as train/model_best.pth"
