from __future__ import annotations

import copy

import torch
from torch import nn

from changenet.model.network import ChangeNet
from changenet.training.batchnorm import synchronised


def test_every_normalisation_is_converted_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    network = ChangeNet(backbone="timm/test_efficientnet", image_size=(32, 32), embed_dim=8, embed_dec=8)
    plain = copy.deepcopy(network).eval()
    converted = synchronised(network)
    assert converted is network, "the network that is validated and written is the one that is trained"
    kinds = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert kinds
    assert all(isinstance(module, nn.SyncBatchNorm) for module in kinds)
    assert list(network.state_dict()) == list(plain.state_dict())
    test, golden = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(test, golden), plain(test, golden), rtol=0, atol=0)
