"""The networks survive the exporter: any batch size from one file, and the same numbers as in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from changenet.model.network import ChangeNet

onnxruntime = pytest.importorskip("onnxruntime")
SIZE = (32, 48)
LITE = "timm/tf_efficientnet_lite0"


class Encoder(nn.Module):
    """The graph from bytes to features."""

    def __init__(self, network: ChangeNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.network.encode(self.network.normalise(picture))


def export(module: nn.Module, example: tuple[torch.Tensor, ...], path: Path) -> Any:
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        module, example, dynamo=True, opset_version=18, dynamic_shapes=tuple({0: batch} for _ in example), verbose=False
    )
    program.save(path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def assert_agrees(session: Any, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    names = [each.name for each in session.get_inputs()]
    ours = session.run(None, {name: each.numpy() for name, each in zip(names, inputs, strict=True)})
    with torch.no_grad():
        expected = module(*inputs)
    for got, want in zip(ours, expected if isinstance(expected, tuple) else (expected,), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": LITE},
        {"backbone": LITE, "difference_module": "euclidean"},
        {"learnable_difference_modules": 3},
        {"difference_module": "euclidean"},
    ],
)
def test_exported_graphs_take_any_batch(
    changes: dict[str, Any], make_network: Callable[..., ChangeNet], tmp_path: Path
) -> None:
    network = make_network(image_size=SIZE, **changes)
    pair = export(network, (torch.randn(2, 3, *SIZE), torch.randn(2, 3, *SIZE)), tmp_path / "pair.onnx")
    encoder = Encoder(network)
    example = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    encoding = export(encoder, (example,), tmp_path / "encoder.onnx")
    for batch in (1, 2, 7):
        assert_agrees(pair, network, (torch.randn(batch, 3, *SIZE), torch.randn(batch, 3, *SIZE)))
        assert_agrees(encoding, encoder, (torch.randint(0, 256, (batch, 3, *SIZE), dtype=torch.uint8),))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"backbone": LITE}])
def test_captured_program_takes_any_batch(changes: dict[str, Any], make_network: Callable[..., ChangeNet]) -> None:
    network = make_network(image_size=SIZE, **changes)
    batch = torch.export.Dim("batch", min=1)
    example = tuple(torch.randn(2, 2, 3, *SIZE))
    program = torch.export.export(network, example, dynamic_shapes=({0: batch}, {0: batch})).module()
    for size in (1, 3):
        test, golden = torch.randn(2, size, 3, *SIZE)
        with torch.no_grad():
            torch.testing.assert_close(program(test, golden), network(test, golden), rtol=1e-4, atol=1e-4)
