"""The TensorRT engine: runs what `changenet gen_trt_engine` built, on the kind of GPU that it was built for."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from changenet.engines.interface import Array, Arrays, Engine
from changenet.engines.tensorrt_files import RUNTIME, TensorRtFiles
from changenet.errors import CheckpointError, EngineError
from changenet.tensorrt.package import import_tensorrt
from changenet.tensorrt.tag import REBUILD

if TYPE_CHECKING:
    from torch import Tensor

    from changenet.tensorrt.run import Plan


class TensorRtEngine(Engine):
    """The engines `encoder`, `golden` (learnable only) and `comparator`; `pair` is loaded when it is first used.

    Args:
        files: See `open_files`.
        device: The GPU: `cuda`, `cuda:1` …; `cpu` means the first one, as nothing else runs TensorRT.

    Attributes:
        memory_bytes: Memory on the GPU that the loaded engines take, for their weights and one call each.

    Raises:
        EngineError: TensorRT or the GPU is missing, or the engines were built for others.
        CheckpointError: TensorRT cannot load an engine.
    """

    def __init__(self, files: TensorRtFiles, *, device: str = "cuda") -> None:
        import torch

        from changenet.tensorrt.run import local_gpu

        device = "cuda" if device == "cpu" else device
        self._files = files
        self._package = import_tensorrt(files.tag.package)
        files.tag.check(version=self._package.version, gpu=local_gpu(device), where=files.where)
        network = files.description.network
        super().__init__(
            name=RUNTIME,
            device=device,
            precision=files.tag.precision,
            multiclass=bool(network.get("multiclass", False)),
        )
        self._device = torch.device(device)
        self._stream: Any = torch.cuda.Stream(self._device) if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
        self._plans: dict[str, Plan] = {}
        self.memory_bytes = 0
        mean, std = (torch.tensor(network[key], dtype=torch.float64) for key in ("mean", "std"))
        self._scale, self._shift = (
            each.float().reshape(3, 1, 1).to(self._device) for each in (1 / (255 * std), -mean / std)
        )
        self.keeps_goldens = not files.pair_only
        if files.pair_only:
            self._plan("pair")
            return
        for name in ("encoder", *(("golden",) if self._learnable else ()), "comparator"):
            self._plan(name)

    @cached_property
    def _learnable(self) -> bool:
        return self._files.description.difference_module == "learnable"

    def encode(self, pictures: NDArray[np.uint8]) -> Arrays:
        """See `Engine`."""
        with self._on_stream():
            return _arrays(self._run("encoder", self._tensors([pictures])))

    def prepare_golden(self, features: Sequence[Array]) -> Arrays:
        """See `Engine`."""
        if not self._learnable:
            return tuple(features)
        with self._on_stream():
            return _arrays(self._run("golden", self._tensors(features)))

    def compare(self, test_features: Sequence[Array], golden_halves: Sequence[Array]) -> NDArray[np.float32]:
        """See `Engine`."""
        with self._on_stream():
            return _arrays(self._run("comparator", self._tensors([*test_features, *golden_halves])))[0]

    def pair(self, test: NDArray[np.float32], golden: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine`."""
        with self._on_stream():
            return _arrays(self._run("pair", self._tensors([test, golden])))[0]

    def output(self, test: NDArray[np.uint8], golden: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`; nothing leaves the GPU on the way."""
        import torch

        with self._on_stream():
            pictures = self._tensors([test, golden])
            if self._files.pair_only:
                return _arrays(self._run("pair", [each * self._scale + self._shift for each in pictures]))[0]
            stacked = torch.cat([pictures[0], pictures[1].reshape(-1, *golden.shape[-3:])])
            features = self._run("encoder", [stacked])
            halves = [level[len(test) :] for level in features]
            if self._learnable:
                halves = list(self._run("golden", halves))
            if golden.ndim == 5:
                halves = [half.reshape(len(test), -1, *half.shape[1:]) for half in halves]
            return _arrays(self._run("comparator", [*(level[: len(test)] for level in features), *halves]))[0]

    def _run(self, name: str, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return self._plan(name)(inputs)

    def _plan(self, name: str) -> Plan:
        from changenet.tensorrt import run

        if self._files.pair_only and name != "pair":
            what = "an engine file holds the pair graph only, which keeps no work of goldens"
            raise EngineError(what, where=self._files.where, fix="Give the bundle that it was built from.")
        if name not in self._plans:
            where = f"{self._files.where}: {name}.engine"
            try:
                content = self._files.read(f"{name}.engine")
            except KeyError as error:
                raise CheckpointError("is not among the files of the engine", where=where, fix=REBUILD) from error
            try:
                self._plans[name] = run.open_plan(content, package=self._package, device=self._device, where=where)
            except RuntimeError as error:  # torch's, for one that the memory of the GPU has no room left
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise EngineError(
                    f"cannot be loaded: {reason}", where=where, fix="Is there room on the GPU?"
                ) from error
            self.memory_bytes += self._plans[name].memory_bytes
        return self._plans[name]

    def _tensors(self, arrays: Sequence[Array]) -> list[Tensor]:
        import torch

        return [torch.from_numpy(np.ascontiguousarray(array)).to(self._device) for array in arrays]

    def _on_stream(self) -> contextlib.AbstractContextManager[object]:
        import torch

        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _arrays(tensors: Sequence[Tensor]) -> Arrays:
    return tuple(tensor.float().cpu().numpy() for tensor in tensors)
