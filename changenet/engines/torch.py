"""The PyTorch engine: runs a checkpoint as it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from changenet.engines.interface import Array, Arrays, Engine
from changenet.errors import EngineError
from changenet.quantization.file import QuantizedCheckpoint, build_quantized
from changenet.training.checkpoint import Checkpoint, build_network

if TYPE_CHECKING:
    from changenet.model.network import ChangeNet


class TorchEngine(Engine):
    """A `ChangeNet` in evaluation mode.

    Args:
        network: Moved to the device.
        threads: CPU threads of the whole process; None leaves them.
        device: `cpu`, `cuda` …
        precision: Of its weights.

    Raises:
        EngineError: There is no such device here.
    """

    def __init__(
        self, network: ChangeNet, *, threads: int | None = None, device: str = "cpu", precision: str = "fp32"
    ) -> None:
        super().__init__(name="torch", device=device, precision=precision, multiclass=network.multiclass)
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = torch.device(device)
        try:
            self.network = network.eval().to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise EngineError(f"PyTorch cannot use the device {device!r} here: {error}") from error

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint | QuantizedCheckpoint, *, threads: int | None = None, device: str = "cpu"
    ) -> TorchEngine:
        """Build the network that a checkpoint describes (raises CheckpointError where its weights do not fit)."""
        if isinstance(checkpoint, QuantizedCheckpoint):
            network = build_quantized(checkpoint)
            return cls(network, threads=threads, device=device, precision=checkpoint.precision)
        return cls(build_network(checkpoint), threads=threads, device=device)

    def _tensors(self, arrays: Sequence[Array]) -> list[Tensor]:
        return [torch.from_numpy(np.ascontiguousarray(array)).to(self._device) for array in arrays]

    @torch.inference_mode()
    def encode(self, pictures: NDArray[np.uint8]) -> Arrays:
        """See `Engine`."""
        (picture,) = self._tensors([pictures])
        return _arrays(self.network.encode(self.network.normalise(picture)))

    @torch.inference_mode()
    def prepare_golden(self, features: Sequence[Array]) -> Arrays:
        """See `Engine`."""
        return _arrays(self.network.prepare_golden(self._tensors(features)))

    @torch.inference_mode()
    def compare(self, test_features: Sequence[Array], golden_halves: Sequence[Array]) -> NDArray[np.float32]:
        """See `Engine`."""
        output = self.network.compare(self._tensors(test_features), self._tensors(golden_halves))
        return _arrays([output])[0]

    @torch.inference_mode()
    def pair(self, test: NDArray[np.float32], golden: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine`."""
        return _arrays([self.network(*self._tensors([test, golden]))])[0]

    @torch.inference_mode()
    def output(self, test: NDArray[np.uint8], golden: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine`; nothing leaves the device on the way."""
        normalise = self.network.normalise
        return _arrays([self.network(*(normalise(picture) for picture in self._tensors([test, golden])))])[0]


def _arrays(tensors: Sequence[Tensor]) -> Arrays:
    return tuple(tensor.float().cpu().numpy() for tensor in tensors)
