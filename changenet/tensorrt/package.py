"""One view of two packages: `tensorrt`, for every GPU, and `tensorrt_rtx`, which also builds where there is no GPU."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from changenet.errors import EngineError

logger = logging.getLogger(__name__)

PACKAGES = ("tensorrt", "tensorrt_rtx")
_INSTALL = (
    "Install the extra: pip install 'changenet-ray[gpu]'; or pip install tensorrt-rtx, "
    "which serves RTX GPUs and also builds without one."
)


@dataclass(frozen=True)
class TensorRt:
    """An imported package.

    Args:
        name: One of `PACKAGES`.
        module: The package itself.
        messages: What it said is wrong, since the last `clear`.
    """

    name: str
    module: Any
    messages: list[str] = field(default_factory=list)

    @property
    def version(self) -> str:
        """Version of the package."""
        return str(self.module.__version__)

    @property
    def builds_without_gpu(self) -> bool:
        """Whether an engine can be built for a GPU that is elsewhere."""
        return hasattr(self.module, "ComputeCapability")

    @cached_property
    def logger(self) -> Any:
        """The package's logger: its errors are kept for our messages, the rest is for `gen_trt_engine.verbose`."""
        module, messages = self.module, self.messages
        severity = module.ILogger.Severity

        class Log(module.ILogger):  # type: ignore[name-defined]
            def __init__(self) -> None:
                module.ILogger.__init__(self)

            def log(self, level: Any, text: str) -> None:
                if level in (severity.INTERNAL_ERROR, severity.ERROR):
                    messages.append(" ".join(text.split()))
                elif level != severity.VERBOSE:
                    logger.debug("TensorRT: %s", text)

        return Log()

    def failure(self) -> str:
        """Return the first thing that the package said is wrong, and forget all."""
        first = self.messages[0] if self.messages else "it gives no reason"
        self.messages.clear()
        return first


def import_tensorrt(name: str | None = None, *, without_gpu: bool = False) -> TensorRt:
    """Return an installed package.

    Args:
        name: One of `PACKAGES`; None takes the first that is installed.
        without_gpu: Only one that builds where there is no GPU will do.

    Raises:
        EngineError: There is none; the message says what to install.
    """
    for each in PACKAGES if name is None else (name,):
        try:
            package = TensorRt(each, importlib.import_module(each))
        except (ImportError, OSError):  # OSError: a library that it links is missing
            continue
        if package.builds_without_gpu or not without_gpu:
            return package
    if without_gpu:
        what = "only the package tensorrt-rtx builds for a GPU that is not here, and it is not installed"
        raise EngineError(what, fix="Install it: pip install tensorrt-rtx; or build on a machine with the GPU.")
    what = "TensorRT is not installed" if name is None else f"the package {name.replace('_', '-')} is not installed"
    raise EngineError(what, fix=_INSTALL if name in (None, "tensorrt") else "Install it: pip install tensorrt-rtx.")
