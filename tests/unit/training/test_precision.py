from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from changenet.training import precision as formats
from changenet.training.precision import autocast, computes_in, usable_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_precision_names_the_format_of_convolutions(precision: str, dtype: torch.dtype) -> None:
    with autocast(precision, CPU):
        assert nn.Conv2d(4, 4, 3)(torch.randn(1, 4, 8, 8)).dtype == dtype
    assert nn.Conv2d(4, 4, 3)(torch.randn(1, 4, 8, 8)).dtype == torch.float32


def test_depthwise_convolutions_stay_exact_on_a_cpu() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6))
    picture = torch.randn(2, 4, 8, 8)
    with autocast("bf16-mixed", CPU):
        between, out = layers[0](picture), layers(picture)
        named = F.conv2d(between, weight=layers[1].weight, bias=layers[1].bias, stride=2, padding=1, groups=6)
    assert between.dtype == torch.bfloat16
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, layers[1](between.float()).bfloat16(), rtol=0, atol=0)
    torch.testing.assert_close(named, out, rtol=0, atol=0)
    out.sum().backward()
    assert layers[1].weight.grad is not None
    assert layers[1].weight.grad.dtype == torch.float32


def test_attention_stays_exact_on_a_cpu() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 1, 5, 4)
    with autocast("bf16-mixed", CPU):
        out = F.scaled_dot_product_attention(query, key, value=value)
        masked = F.scaled_dot_product_attention(query, key, value, attn_mask=torch.eye(5, dtype=torch.bool))
    torch.testing.assert_close(out, F.scaled_dot_product_attention(query, key, value).bfloat16(), rtol=0, atol=0)
    torch.testing.assert_close(masked, value.bfloat16())


def test_autocast_ends_after_an_error() -> None:
    with pytest.raises(RuntimeError), autocast("bf16-mixed", CPU):
        nn.Conv2d(4, 4, 3, groups=2)(torch.randn(1, 5, 8, 8))
    assert not torch.is_autocast_enabled("cpu")
    assert (torch.randn(2, 2) @ torch.randn(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("asked", ["bf16-mixed", "16-mixed"])
def test_a_processor_without_half_precision_trains_in_full(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(computes_in(torch.bfloat16, CPU), bool)
    for has_instructions, used in ((True, asked), (False, "32-true")):
        monkeypatch.setattr(formats, "computes_in", lambda *_, found=has_instructions: found)
        assert usable_precision(asked, CPU) == used
        assert usable_precision("32-true", CPU) == "32-true"
    monkeypatch.undo()
    assert usable_precision(asked, torch.device("cuda")) == asked
