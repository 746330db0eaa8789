"""The ONNX Runtime engine: runs the graphs of a bundle, on the CPU or a GPU; needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from changenet.bundle import WEIGHTS, Bundle
from changenet.description import ModelDescription
from changenet.engines.interface import Array, Arrays, Engine
from changenet.engines.processor import has_vnni
from changenet.errors import CheckpointError, EngineError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

RUNTIME = "onnxruntime"
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
# Floats of 19 bits would not give the scores of other engines.
_EXACT = {"CUDAExecutionProvider": {"use_tf32": "0"}}
# It puts a layer between two roundings into integers, with one scale for all weights, though it is to stay in floats.
_DISABLED = ["WeightBiasQuantization"]
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
        read: Returns the content of the file of that name, a graph or `WEIGHTS`; KeyError where there is none.
        description: What the model says about itself.
        threads: CPU threads of one call; None = all CPUs.
        precision: Of the graphs.
        device: `cpu`, `cuda` or `tensorrt` (ONNX Runtime's TensorRT provider), with `:N` for another GPU than the first.

    Raises:
        EngineError: The package is not installed, or this one cannot use the device here.
        CheckpointError: ONNX Runtime cannot load a graph.
    """

    def __init__(
        self,
        read: Callable[[str], bytes],
        *,
        description: ModelDescription,
        threads: int | None = None,
        precision: str = "fp32",
        device: str = "cpu",
    ) -> None:
        self._read = read
        self._threads = threads
        self._asked = device
        self._as_written = "fp8" in precision
        self._providers, self._gpu = _providers(device)
        weights = self._weights()
        self.memory_bytes = len(weights)
        self._encoder = self._load("encoder.onnx", weights)
        learnable = description.difference_module == "learnable"
        self._golden = self._load("golden.onnx", weights) if learnable else None
        self._comparator = self._load("comparator.onnx", weights)
        self.providers: tuple[str, ...] = tuple(self._encoder.get_providers())
        super().__init__(
            name=RUNTIME,
            device=self.providers[0],
            precision=precision,
            multiclass=bool(description.network.get("multiclass", False)),
        )

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, threads: int | None = None, device: str = "cpu") -> OnnxRuntimeEngine:
        """Load the graphs of a bundle; encrypted ones are decrypted in memory.

        Raises:
            EngineError: It has no graphs for ONNX Runtime; otherwise as the class.
        """
        manifest = bundle.manifest
        entry = next((each for each in manifest.engines if each.runtime == RUNTIME), None)
        if entry is None:
            there = ", ".join(sorted({each.runtime for each in manifest.engines})) or "no engine"
            what = f"holds no graphs for {RUNTIME}, but {there}"
            fix = "Name the engine torch, or auto." if there == "torch" else "Export it again, or upgrade changenet."
            raise EngineError(what, where=bundle.folder, fix=fix)
        precision = entry.precision
        return cls(bundle.read, description=manifest.description, threads=threads, precision=precision, device=device)

    def _weights(self) -> bytes:
        """Return the weights that lie beside the graphs; each graph copies what it needs of them."""
        try:
            return self._read(WEIGHTS)
        except KeyError:
            return b""

    def _load(self, name: str, weights: bytes) -> InferenceSession:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # A graph's threads would spin after its run, on the CPUs that the next graph runs on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self._gpu is None:
            _share_memory()
            options.add_session_config_entry("session.use_env_allocators", "1")
        if not has_vnni():
            # It would cut off sums of products of 8 bits: other scores, and no word about it. Where there is VNNI the exact
            # kernels give the same numbers, and take half as long again.
            options.add_session_config_entry("session.x64quantprecision", "1")
        if self._as_written:
            # ONNX Runtime drops a ReLU in front of a rounding, which is right for integers, and wrong for floats of 8 bits.
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        try:
            content = self._read(name)
        except KeyError as error:
            what = f"there is no {name} among the files of the engine {RUNTIME}"
            raise CheckpointError(what, fix="Export the bundle again.") from error
        self.memory_bytes += len(content)
        if weights:
            options.add_external_initializers_from_files_in_memory([WEIGHTS], [weights], [len(weights)])
        try:
            session = onnxruntime.InferenceSession(
                content, options, providers=list(self._providers), disabled_optimizers=_DISABLED
            )
        except _refusals() as error:
            raise CheckpointError(
                f"ONNX Runtime cannot load {name}: {error}", fix="Export the bundle again."
            ) from error
        first, *_ = self._providers
        used = session.get_providers()  # a provider that does not load is left out without a word
        if (first if isinstance(first, str) else first[0]) not in used:
            what = f"ONNX Runtime cannot use the device {self._asked!r} here; it has {', '.join(used)}"
            fix = "Install onnxruntime-gpu (extra gpu) instead of onnxruntime, and the CUDA libraries that it asks for."
            raise EngineError(what, fix=fix)
        return session

    @cached_property
    def _pair(self) -> InferenceSession:
        return self._load("pair.onnx", self._weights())

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

    def output(self, test: NDArray[np.uint8], golden: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`; on a GPU features and halves stay there, for which test and golden are encoded apart."""
        if self._gpu is None or golden.ndim == 5:
            return super().output(test, golden)
        features, halves = self._bound(self._encoder, [test]), self._bound(self._encoder, [golden])
        if self._golden is not None:
            halves = self._bound(self._golden, halves)
        (output,) = self._bound(self._comparator, [*features, *halves])
        found: NDArray[np.float32] = output.numpy()
        return found

    def _bound(self, session: InferenceSession, inputs: Sequence[Array | OrtValue]) -> list[OrtValue]:
        """Run a graph whose outputs stay on the device, as inputs that another left there do."""
        assert self._gpu is not None
        binding = session.io_binding()
        for place, value in zip(session.get_inputs(), inputs, strict=True):
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(place.name, np.ascontiguousarray(value))
            else:
                binding.bind_ortvalue_input(place.name, value)
        for place in session.get_outputs():
            binding.bind_output(place.name, *self._gpu)
        try:
            session.run_with_iobinding(binding)
        except _refusals() as error:
            raise _failed(error) from error
        outputs: list[OrtValue] = binding.get_outputs()
        return outputs


@cache
def _share_memory() -> None:
    """Let all graphs of this process work in one arena: each alone would keep what its largest batch took."""
    onnxruntime = import_onnxruntime()
    where = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(where, None)


def _providers(device: str) -> tuple[tuple[str | tuple[str, dict[str, Any]], ...], tuple[str, int] | None]:
    """Return ONNX Runtime's providers in the order of preference, and the name and number of the GPU (None: the CPU)."""
    kind, _, number = device.partition(":")
    if kind not in PROVIDERS or not (number or "0").isdigit() or (kind == "cpu" and number):
        fix = f"Choose one of {', '.join(PROVIDERS)}, with :N for a GPU."
        raise EngineError(f"ONNX Runtime has no device {device!r}", fix=fix)
    if kind == "cpu":
        return PROVIDERS[kind], None
    index = int(number or 0)
    chosen = tuple((name, {"device_id": index, **_EXACT.get(name, {})}) for name in PROVIDERS[kind][:-1])
    return (*chosen, PROVIDERS[kind][-1]), ("cuda", index)


def _run(session: InferenceSession, arrays: Sequence[Array]) -> Arrays:
    names = [graph_input.name for graph_input in session.get_inputs()]
    try:
        return tuple(session.run(None, dict(zip(names, arrays, strict=True))))
    except _refusals() as error:
        raise _failed(error) from error


def _refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions by which ONNX Runtime refuses; they have no base of their own."""
    state = import_onnxruntime().capi.onnxruntime_pybind11_state
    return tuple(getattr(state, kind) for kind in _REFUSALS)


def _failed(error: Exception) -> EngineError:
    fix = "Take a smaller batch where it says that memory is missing."
    return EngineError(f"ONNX Runtime cannot run this batch: {error}", fix=fix)
