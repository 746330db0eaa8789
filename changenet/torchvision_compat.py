"""`timm`, `torchvision` and its `transforms.v2`, importable beside any build of torch.

torchvision's wheel is linked against CUDA. Beside a CPU build of torch its compiled operators do not load and importing
it fails with `operator torchvision::nms does not exist`. Declaring the schemas of those operators is enough for
everything this project uses. Import the three modules from here, never directly:

    from changenet.torchvision_compat import timm, torchvision, transforms
"""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

_MODULES = {"timm": "timm", "torchvision": "torchvision", "transforms": "torchvision.transforms.v2"}
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept_alive: list[Any] = []  # a torch Library forgets its operators when it is collected


def __getattr__(name: str) -> ModuleType:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _repair()
    return importlib.import_module(_MODULES[name])


def _repair() -> None:
    """Make `import torchvision` work; do nothing where it already does."""
    if "torchvision" in sys.modules:
        return
    try:
        _import_quietly()
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        import torch

        make_library: Any = torch.library.Library  # PyTorch gives it no types
        library = make_library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _kept_alive.append(library)
        _import_quietly()


def _import_quietly() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Failed to load image Python extension")
        importlib.import_module("torchvision")
