"""What a TensorRT engine says about itself: it runs with the version and on the kind of GPU that it was built for only."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from changenet.errors import EngineError

logger = logging.getLogger(__name__)

REBUILD = "Build it again on this machine: changenet gen_trt_engine --overwrite."


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Args:
        name: As its driver says it.
        capability: Compute capability, such as `8.9`.
    """

    name: str
    capability: str


@dataclass(frozen=True)
class EngineTag:
    """Where the engines that were built together run, and what they were built from.

    Args:
        package: `tensorrt` or `tensorrt_rtx`.
        version: Of the package.
        capability: Compute capability of the GPU they are for.
        gpu: Name of the GPU they were built on; None where there was none.
        precision: `fp32`, `fp16`, `bf16`, `int8` or `fp8`.
        batch: Smallest, usual and largest batch of pairs.
        sources: Name of an engine file to the SHA-256 of the ONNX graph it was built from.
        pairs_per_second: By runtime, `tensorrt` and `onnxruntime`, on the GPU where they were built; empty where there was
            none.
    """

    package: str
    version: str
    capability: str
    gpu: str | None
    precision: str
    batch: tuple[int, int, int]
    sources: dict[str, str]
    pairs_per_second: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "batch": list(self.batch)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineTag:
        """Rebuild what `to_dict` took apart (raises TypeError or KeyError where something is missing)."""
        return cls(**{**values, "batch": tuple(values["batch"])})

    def check(self, *, version: str, gpu: Gpu, where: str) -> None:
        """Make sure that the engines run here.

        Args:
            version: Of the installed package of that name.
            gpu: That is to run them.
            where: What the message calls them.

        Raises:
            EngineError: They were built for another version or another kind of GPU.
        """
        if version != self.version:
            what = f"built with {self.package} {self.version}, and {version} is installed"
            raise EngineError(what, where=where, fix=REBUILD)
        if gpu.capability != self.capability:
            what = (
                f"built for compute capability {self.capability}{f' ({self.gpu})' if self.gpu else ''}, "
                f"and this GPU ({gpu.name}) has {gpu.capability}"
            )
            raise EngineError(what, where=where, fix=REBUILD)
        if self.gpu not in (None, gpu.name):
            logger.warning("%s was built on %s and runs slower on %s. %s", where, self.gpu, gpu.name, REBUILD)
