"""Runs a TensorRT engine with torch tensors on the GPU as its buffers."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from changenet.errors import CheckpointError, EngineError
from changenet.tensorrt.package import TensorRt
from changenet.tensorrt.tag import REBUILD, Gpu

Tensors = tuple[Tensor, ...]
ALIGNMENT = 256  # of addresses, in bytes; what PyTorch allocates on a GPU is so


def local_gpu(device: str) -> Gpu:
    """Return the GPU of that name.

    Args:
        device: `cuda`, `cuda:1` …

    Raises:
        EngineError: There is none here.
    """
    try:
        properties = torch.cuda.get_device_properties(torch.device(device))
    except (RuntimeError, AssertionError, ValueError) as error:
        what = f"TensorRT needs an NVIDIA GPU, and there is no {device} here"
        fix = "Run on a machine with one. (To build for a GPU elsewhere: gen_trt_engine.tensorrt.compute_capability.)"
        raise EngineError(what, fix=fix) from error
    return Gpu(properties.name, f"{properties.major}.{properties.minor}")


class Plan(ABC):
    """An engine that takes any batch: larger ones are cut, smaller ones filled up.

    Args:
        smallest: Batch that it was built for.
        largest: Likewise.
    """

    def __init__(self, *, smallest: int, largest: int) -> None:
        self.smallest, self.largest = smallest, largest

    @property
    @abstractmethod
    def memory_bytes(self) -> int:
        """Memory on the GPU: weights and what a call needs."""

    @abstractmethod
    def execute(self, inputs: Sequence[Tensor]) -> Tensors:
        """Return the outputs for inputs on the GPU, whose batch is one that the engine was built for."""

    def __call__(self, inputs: Sequence[Tensor]) -> Tensors:
        """Return the outputs (B, …) for inputs (B, …) on the GPU, whatever the batch B >= 1."""
        batch = len(inputs[0])
        pieces = [
            self._filled([each[first : first + self.largest] for each in inputs])
            for first in range(0, batch, self.largest)
        ]
        return pieces[0] if len(pieces) == 1 else tuple(torch.cat(level) for level in zip(*pieces, strict=True))

    def _filled(self, inputs: Sequence[Tensor]) -> Tensors:
        count = len(inputs[0])
        if count < self.smallest:
            inputs = [torch.cat([each, each[-1:].expand(self.smallest - count, *each.shape[1:])]) for each in inputs]
        return tuple(output[:count] for output in self.execute(inputs))


def open_plan(content: bytes, *, package: TensorRt, device: torch.device, where: str) -> Plan:
    """Load an engine onto a GPU.

    Raises:
        CheckpointError: TensorRT cannot read it.
    """
    return _TensorRtPlan(content, package=package, device=device, where=where)


class _TensorRtPlan(Plan):
    def __init__(self, content: bytes, *, package: TensorRt, device: torch.device, where: str) -> None:
        trt = package.module
        package.messages.clear()
        self._device, self._trt = device, trt
        self._lock = threading.Lock()  # a context runs one call at a time
        with torch.cuda.device(device):
            self._runtime: Any = trt.Runtime(package.logger)
            self._engine: Any = self._runtime.deserialize_cuda_engine(content)
            self._context: Any = self._engine.create_execution_context() if self._engine is not None else None
        if self._context is None:
            raise CheckpointError(f"TensorRT cannot load it: {package.failure()}", where=where, fix=REBUILD)
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self._inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        self._types = {name: _torch_type(trt, self._engine.get_tensor_dtype(name)) for name in names}
        self._size = len(content)
        shape = tuple(self._engine.get_tensor_shape(self._inputs[0]))
        if shape[0] == -1:
            low, _, high = self._engine.get_tensor_profile_shape(self._inputs[0], 0)
            super().__init__(smallest=low[0], largest=high[0])
        else:
            super().__init__(smallest=shape[0], largest=shape[0])

    @property
    def memory_bytes(self) -> int:
        needed = getattr(self._engine, "device_memory_size_v2", None) or self._engine.device_memory_size
        return self._size + int(needed)

    def execute(self, inputs: Sequence[Tensor]) -> Tensors:
        # They must stay until the GPU is done, which `_outputs` on the same stream waits for.
        ready = [_aligned(each.to(self._types[name])) for name, each in zip(self._inputs, inputs, strict=True)]
        stream = torch.cuda.current_stream(self._device)
        with self._lock, torch.cuda.device(self._device):
            for name, tensor in zip(self._inputs, ready, strict=True):
                self._context.set_input_shape(name, tuple(tensor.shape))
                self._context.set_tensor_address(name, tensor.data_ptr())
            outputs = []
            for name in self._outputs:
                shape = tuple(self._context.get_tensor_shape(name))
                outputs.append(torch.empty(shape, dtype=self._types[name], device=self._device))
                self._context.set_tensor_address(name, outputs[-1].data_ptr())
            if not self._context.execute_async_v3(stream.cuda_stream):
                raise EngineError(
                    "TensorRT could not run a batch", fix="Is the GPU's memory full? Take a smaller batch."
                )
        return tuple(outputs)


def _aligned(tensor: Tensor) -> Tensor:
    """Return a tensor that begins where TensorRT can read it, as a slice of another one need not."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def _torch_type(trt: Any, kind: Any) -> torch.dtype:
    known = {trt.float32: torch.float32, trt.float16: torch.float16, trt.uint8: torch.uint8}
    return known[kind]
