from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from changenet.model.backbones.deformable import DeformableAttention, cell_centres

SIZES = [(3, 5), (2, 2)]


def lively_attention(levels: int = 2) -> DeformableAttention:
    torch.manual_seed(0)
    attention = DeformableAttention(32, levels=levels, heads=4, points=3)
    for each in attention.parameters():
        torch.nn.init.normal_(each, std=0.4)
    return attention.eval()


def read(values: np.ndarray, x: float, y: float) -> np.ndarray:
    """Read a map (H, W, d) between its cells; x and y count cells, the centre of the first is 0; outside is zero."""
    left, top = math.floor(x), math.floor(y)
    total = np.zeros(values.shape[-1])
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < values.shape[0] and 0 <= column < values.shape[1]:
            total += values[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


def attend(
    attention: DeformableAttention, query: torch.Tensor, centres: torch.Tensor, values: torch.Tensor
) -> np.ndarray:
    """The definition, one query, head, level and point after the other."""
    heads, points, levels = attention.heads, attention.points, len(SIZES)
    offsets = attention.offsets(query).reshape(-1, heads, levels, points, 2).numpy()
    weights = attention.weights(query).reshape(-1, heads, levels * points).softmax(-1)
    weights = weights.reshape(-1, heads, levels, points).numpy()
    value = attention.value(values).reshape(len(values), heads, -1).numpy()
    mixed = np.zeros((len(query), heads, value.shape[-1]))
    start = 0
    for level, (rows, columns) in enumerate(SIZES):
        part = value[start : start + rows * columns].reshape(rows, columns, heads, -1)
        start += rows * columns
        for place in np.ndindex(len(query), heads, points):
            number, head, point = place
            step_x, step_y = offsets[number, head, level, point]
            x = float(centres[number, 0]) * columns + step_x - 0.5
            y = float(centres[number, 1]) * rows + step_y - 0.5
            mixed[number, head] += weights[number, head, level, point] * read(part[:, :, head], x, y)
    return attention.output(torch.from_numpy(mixed.reshape(len(query), -1)).float()).numpy()


def test_attention_is_what_its_definition_says() -> None:
    attention = lively_attention()
    query, values = torch.randn(2, 6, 32), torch.randn(2, 19, 32)
    centres = torch.rand(6, 2)
    with torch.no_grad():
        ours = attention(query, centres, values, SIZES)
        for number in range(2):
            expected = attend(attention, query[number], centres, values[number])
            np.testing.assert_allclose(ours[number].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_centres_are_those_of_cells_row_by_row() -> None:
    centres = cell_centres([(1, 2), (2, 1)], torch.zeros(1))
    assert centres.tolist() == [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]


def test_places_stay_exact_in_half_precision() -> None:
    """In half precision a place on a map of 256 cells a side would be up to half a cell off."""
    attention = lively_attention(levels=1)
    torch.nn.init.zeros_(attention.offsets.weight)
    query, values = torch.randn(1, 4, 32), torch.randn(1, 256 * 256, 32)
    centres = torch.tensor([[0.9031, 0.7017], [0.8532, 0.9521], [0.7713, 0.6527], [0.9907, 0.9871]])
    with torch.no_grad():
        exact = attention(query, centres, values, [(256, 256)])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = attention(query, centres, values, [(256, 256)])
    assert (rough.float() - exact).norm() < 0.02 * exact.norm()


def test_fresh_heads_look_in_different_directions() -> None:
    attention = DeformableAttention(64, levels=2)
    places = attention.offsets.bias.detach().reshape(16, 2, 4, 2)
    assert places.abs().amax(dim=-1).allclose(torch.arange(1.0, 5).expand(16, 2, 4))
    assert len({tuple(each.round(decimals=3).tolist()) for each in places[:, 0, 0]}) == 16


def test_heads_must_share_the_channels() -> None:
    with pytest.raises(ValueError, match="16 attention heads"):
        DeformableAttention(48, levels=1)
