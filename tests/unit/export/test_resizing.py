"""Resizing in exported graphs: what PyTorch does, as products."""

import numpy as np
import onnxruntime
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from changenet.export.resizing import TRANSLATIONS

SIDES = st.integers(1, 9)


class Resize(nn.Module):
    def __init__(self, size: tuple[int, int], align_corners: bool) -> None:
        super().__init__()
        self.size, self.align_corners = size, align_corners

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return F.interpolate(values, size=self.size, mode="bilinear", align_corners=self.align_corners)


@settings(max_examples=8, deadline=None)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.booleans())
def test_a_graph_resizes_as_pytorch_does_by_products_alone(before, after, align_corners) -> None:
    module, values = Resize(after, align_corners).eval(), torch.randn(2, 3, *before)
    program = torch.onnx.export(
        module, (values,), dynamo=True, opset_version=18, custom_translation_table=TRANSLATIONS, verbose=False
    )
    graph = program.model_proto
    assert {node.op_type for node in graph.graph.node} <= {"MatMul", "Identity"}
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: values.numpy()})
    np.testing.assert_allclose(found, module(values).numpy(), atol=1e-5)
