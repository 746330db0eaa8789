"""Merged networks: the same outputs in fewer steps."""

from typing import Any

import pytest
import torch

from changenet.model.merging import merged
from changenet.training.checkpoint import build_network


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"embed_dim": 64, "learnable_difference_modules": 3, "head": "flatten"},
        {"difference_module": "euclidean"},
        pytest.param({"num_golden": 2, "learnable_difference_modules": 2, "embed_dim": 40}, marks=pytest.mark.slow),
    ],
)
def test_outputs_stay_and_narrow_levels_are_kept_as_they_are(changes: dict[str, Any], make_checkpoint: Any) -> None:
    network = build_network(make_checkpoint(**changes))
    with torch.no_grad():  # of a trained network: no bias is zero
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.5 * torch.rand_like(buffer))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    golden = (network.num_golden,) if network.num_golden > 1 else ()
    side = network.image_size
    test, goldens = torch.randn(3, 3, *side), torch.randn(3, *golden, 3, *side)
    found = merged(network)
    with torch.no_grad():
        torch.testing.assert_close(found(test, goldens), network(test, goldens), atol=1e-5, rtol=1e-5)
        widths = [level.shape[1] for level in found.encode(test)]
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in found.modules())
    if network.pyramid is not None:
        width = network.arguments["embed_dim"]
        own = list(reversed(network.backbone.widths))[: network.pyramid.levels]
        assert widths == [narrow if 8 * narrow <= 9 * width else width for narrow in own]
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
