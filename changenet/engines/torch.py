"""The PyTorch engine: runs a checkpoint, in float32 as it was trained or in bfloat16."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from changenet.bundle import Bundle
from changenet.engines.choice import TORCH
from changenet.engines.interface import Array, Arrays, Engine
from changenet.errors import EngineError
from changenet.model.merging import merged
from changenet.quantization.bundled import quantized_of
from changenet.quantization.file import QuantizedCheckpoint, build_quantized
from changenet.training.checkpoint import Checkpoint, build_network
from changenet.training.precision import computes_in

if TYPE_CHECKING:
    from changenet.model.network import ChangeNet

logger = logging.getLogger(__name__)


class TorchEngine(Engine):
    """A `ChangeNet` in evaluation mode.

    Args:
        network: Moved to the device; bfloat16 rounds its weights in place.
        threads: CPU threads of the whole process; None leaves them.
        device: `cpu`, `cuda` …
        precision: `bf16` computes convolutions, linear layers and attention in bfloat16; anything else names what the
            weights are.
        compiled: Let `torch.compile` write the code; the first batches then take minutes.

    Raises:
        EngineError: There is no such device here.
    """

    def __init__(
        self,
        network: ChangeNet,
        *,
        threads: int | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        compiled: bool = False,
    ) -> None:
        super().__init__(name=TORCH, device=device, precision=precision, multiclass=network.multiclass)
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            self._device = torch.device(device)
            self.network = network.eval().to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise EngineError(f"PyTorch cannot use the device {device!r} here: {error}") from error
        if precision == "bf16":
            if not computes_in(torch.bfloat16, self._device):
                logger.warning("This processor has no instructions for bfloat16: precision fp32 is many times as fast.")
            # Autocast would round the weights anew in every call.
            modules = list(self.network.modules())
            exact = {getattr(module, name) for module in modules for name in getattr(module, "full_precision", ())}
            for module in modules:
                if isinstance(module, (nn.Conv2d, nn.Linear)) and module not in exact:
                    module.to(torch.bfloat16)
        held = chain(self.network.parameters(), self.network.buffers())
        self.memory_bytes = sum(tensor.nbytes for tensor in held)
        prepare: Callable[[Callable[..., object]], Callable[..., object]] = torch.compile if compiled else _as_it_is
        self._encode = prepare(self._encode_pictures)
        self._prepare = prepare(self.network.prepare_golden)
        self._compare = prepare(self.network.compare)
        self._forward = prepare(self.network.forward)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint | QuantizedCheckpoint,
        *,
        threads: int | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        compiled: bool = False,
    ) -> TorchEngine:
        """Build the network that a checkpoint describes, with steps merged where that is exact.

        Raises:
            CheckpointError: Its weights do not fit.
            EngineError: There is no such device, or another precision is asked of a quantized checkpoint.
        """
        if isinstance(checkpoint, QuantizedCheckpoint):
            if precision != "fp32":
                what = f"the checkpoint is quantized ({checkpoint.precision}) and cannot run in {precision}"
                raise EngineError(what, fix="Leave the precision out.")
            network, precision = build_quantized(checkpoint), checkpoint.precision
        else:
            network = merged(build_network(checkpoint), in_place=True)
        return cls(network, threads=threads, device=device, precision=precision, compiled=compiled)

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, threads: int | None = None, device: str = "cpu") -> TorchEngine:
        """Build the quantized network that a bundle holds; an encrypted one is decrypted in memory.

        Raises:
            EngineError: The bundle holds ONNX graphs instead, or a package or the device is missing here.
            CheckpointError: The tensors are not what the manifest says.
        """
        return cls.from_checkpoint(quantized_of(bundle), threads=threads, device=device)

    def _encode_pictures(self, pictures: Tensor) -> tuple[Tensor, ...]:
        return self.network.encode(self.network.normalise(pictures))

    def encode(self, pictures: NDArray[np.uint8]) -> Arrays:
        """See `Engine`."""
        return self._run(self._encode, *self._tensors([pictures]))

    def prepare_golden(self, features: Sequence[Array]) -> Arrays:
        """See `Engine`."""
        return self._run(self._prepare, self._tensors(features))

    def compare(self, test_features: Sequence[Array], golden_halves: Sequence[Array]) -> NDArray[np.float32]:
        """See `Engine`."""
        return self._run(self._compare, self._tensors(test_features), self._tensors(golden_halves))[0]

    def pair(self, test: NDArray[np.float32], golden: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine`."""
        return self._run(self._forward, *self._tensors([test, golden]))[0]

    def output(self, test: NDArray[np.uint8], golden: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`; nothing leaves the device on the way."""
        normalise = self.network.normalise
        return self._run(self._forward, *(normalise(picture) for picture in self._tensors([test, golden])))[0]

    def _run(self, function: Callable[..., object], *inputs: Tensor | list[Tensor]) -> Arrays:
        bf16 = torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bf16")
        exact = self._device.type == "cuda" and self.precision == "fp32"
        with torch.inference_mode(), bf16, full_floats if exact else contextlib.nullcontext():
            found = function(*inputs)
        tensors: Sequence[Tensor] = [found] if isinstance(found, Tensor) else found  # type: ignore[assignment]
        return tuple(tensor.float().cpu().numpy() for tensor in tensors)

    def _tensors(self, arrays: Sequence[Array]) -> list[Tensor]:
        return [torch.from_numpy(np.ascontiguousarray(array)).to(self._device) for array in arrays]


class _FullFloats:
    """Lets GPUs compute float32 with all its bits: cuDNN takes 19 of them by default, which gives other scores.

    The switch is one of the whole process: the first thread that comes in turns it, and the last that leaves turns it back.
    """

    def __init__(self) -> None:
        self._backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
        self._before: list[bool] = []
        self._inside, self._lock = 0, threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = [each.allow_tf32 for each in self._backends]
                for each in self._backends:
                    each.allow_tf32 = False
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for each, allowed in zip(self._backends, self._before, strict=True):
                    each.allow_tf32 = allowed


full_floats = _FullFloats()


def _as_it_is(function: Callable[..., object]) -> Callable[..., object]:
    return function
