"""Batch statistics that all workers share (`train.sync_batchnorm`)."""

from __future__ import annotations

from typing import cast

from torch import nn


def synchronised(network: nn.Module) -> nn.Module:
    """Replace every batch normalisation by one whose statistics are those of all ranks' rows, and return the network.

    By timm's conversion: PyTorch's own drops the activation that timm's encoders have inside these layers. Parameters and
    buffers stay the same objects under the same names. PyTorch synchronises on GPUs only; elsewhere the network computes
    as before.

    Args:
        network: Changed in place.
    """
    from changenet.torchvision_compat import timm

    return cast("nn.Module", timm.layers.convert_sync_batchnorm(network))
