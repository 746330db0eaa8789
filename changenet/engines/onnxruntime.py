"""The ONNX Runtime engine: runs the graphs of a bundle; needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from changenet.bundle import Bundle
from changenet.description import ModelDescription
from changenet.engines.interface import Array, Arrays, Engine
from changenet.errors import CheckpointError, EngineError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PROVIDERS = ("CPUExecutionProvider",)
_REFUSALS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")


def import_onnxruntime() -> ModuleType:
    """Return the package.

    Raises:
        EngineError: It is not installed; the message names the extra that brings it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        what = "the package onnxruntime is not installed"
        raise EngineError(what, fix="Install the extra: pip install 'changenet-ray[cpu]' (or [gpu]).") from error
    module: ModuleType = onnxruntime
    return module


class OnnxRuntimeEngine(Engine):
    """The graphs `encoder`, `golden` (learnable only) and `comparator`; `pair` is loaded when it is first used.

    Args:
        read: Returns the content of the graph file of that name.
        description: What the model says about itself.
        threads: CPU threads of one call; None = all CPUs.
        precision: Of the graphs.

    Raises:
        EngineError: The package is not installed.
        CheckpointError: ONNX Runtime cannot load a graph.
    """

    def __init__(
        self,
        read: Callable[[str], bytes],
        *,
        description: ModelDescription,
        threads: int | None = None,
        precision: str = "fp32",
    ) -> None:
        self._read = read
        self._threads = threads
        self._encoder = self._load("encoder.onnx")
        learnable = description.difference_module == "learnable"
        self._golden = self._load("golden.onnx") if learnable else None
        self._comparator = self._load("comparator.onnx")
        self.providers: tuple[str, ...] = tuple(self._encoder.get_providers())
        super().__init__(
            name="onnxruntime",
            device=self.providers[0],
            precision=precision,
            multiclass=bool(description.network.get("multiclass", False)),
        )

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, threads: int | None = None) -> OnnxRuntimeEngine:
        """Load the graphs of a verified bundle; encrypted ones are decrypted in memory."""
        manifest = bundle.manifest
        precision = manifest.engines[0].precision
        return cls(bundle.read, description=manifest.description, threads=threads, precision=precision)

    def _load(self, name: str) -> InferenceSession:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        content = self._read(name)
        state = onnxruntime.capi.onnxruntime_pybind11_state
        refusals = tuple(getattr(state, kind) for kind in _REFUSALS)  # they have no base of their own
        try:
            return onnxruntime.InferenceSession(content, options, providers=list(PROVIDERS))
        except refusals as error:
            raise CheckpointError(
                f"ONNX Runtime cannot load {name}: {error}", fix="Export the bundle again."
            ) from error

    @cached_property
    def _pair(self) -> InferenceSession:
        return self._load("pair.onnx")

    def encode(self, pictures: NDArray[np.uint8]) -> Arrays:
        """See `Engine`."""
        return _run(self._encoder, [pictures])

    def prepare_golden(self, features: Sequence[Array]) -> Arrays:
        """See `Engine`."""
        return tuple(features) if self._golden is None else _run(self._golden, features)

    def compare(self, test_features: Sequence[Array], golden_halves: Sequence[Array]) -> NDArray[np.float32]:
        """See `Engine`."""
        return _run(self._comparator, [*test_features, *golden_halves])[0]

    def pair(self, test: NDArray[np.float32], golden: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine`."""
        return _run(self._pair, [test, golden])[0]


def _run(session: InferenceSession, arrays: Sequence[Array]) -> Arrays:
    names = [graph_input.name for graph_input in session.get_inputs()]
    return tuple(session.run(None, dict(zip(names, arrays, strict=True))))
