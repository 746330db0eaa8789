"""From the spec to data, network and training objects: the only place that knows both sides."""

from changenet.factory.data import (
    Split,
    augmentation,
    pair_source,
    picture_layout,
    targets,
    training_data_hash,
    training_loader,
    validation_loader,
)
from changenet.factory.network import describe, describe_tao, load_pretrained, make_network, network_arguments
from changenet.factory.training import make_loss, make_stateful, seed_process

__all__ = [
    "Split",
    "augmentation",
    "describe",
    "describe_tao",
    "load_pretrained",
    "make_loss",
    "make_network",
    "make_stateful",
    "network_arguments",
    "pair_source",
    "picture_layout",
    "seed_process",
    "targets",
    "training_data_hash",
    "training_loader",
    "validation_loader",
]
