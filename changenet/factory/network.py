"""From the spec to networks and what they say about themselves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from changenet.description import BINARY_CLASSES, ModelDescription, Threshold
from changenet.factory.data import picture_layout
from changenet.model.network import ChangeNet
from changenet.model.pretrained import load_backbone
from changenet.model.weight_files import load_exactly
from changenet.spec import Experiment
from changenet.training.checkpoint import load_checkpoint, package_versions

logger = logging.getLogger(__name__)


def network_arguments(experiment: Experiment) -> dict[str, Any]:
    """Return the arguments of the spec's `ChangeNet`; None is left to the encoder."""
    model, data = experiment.model, experiment.dataset.classify
    mean, std = experiment.statistics
    return {
        "backbone": model.backbone.type,
        "difference_module": model.classify.difference_module,
        "image_size": experiment.picture_size,
        "num_classes": experiment.num_classes,
        "multiclass": experiment.classes != BINARY_CLASSES,
        "embed_dim": model.decode_head.decoder_params.embed_dim,
        "embed_dec": model.classify.embed_dec,
        "embedding_vectors": model.classify.embedding_vectors,
        "learnable_difference_modules": model.classify.learnable_difference_modules,
        "head": experiment.head,
        "align_corners": model.decode_head.align_corners,
        "feat_downsample": model.backbone.feat_downsample,
        "use_summary_token": model.decode_head.use_summary_token,
        "feature_strides": model.decode_head.feature_strides if experiment.learnable else None,
        "mean": mean,
        "std": std,
        "num_golden": data.num_golden,
        "golden_gradients": model.classify.golden_gradients,
    }


def make_network(experiment: Experiment, *, pretrained: bool = True) -> ChangeNet:
    """Return the network of the spec, fresh or with the pretrained weights that the spec names.

    Args:
        experiment: The spec.
        pretrained: Load `pretrained_backbone_path` and `pretrained_model_path`; False when a checkpoint follows.

    Raises:
        SpecError: The spec contradicts the encoder.
        CheckpointError: Weights cannot be read or do not fit.
    """
    network = ChangeNet(**network_arguments(experiment))
    if pretrained:
        load_pretrained(network, experiment)
    if experiment.model.backbone.freeze_backbone:
        network.freeze_backbone()
    return network


def load_pretrained(network: ChangeNet, experiment: Experiment) -> None:
    """Load the weights that the spec names into a fresh network: of a whole model, else of the encoder, else none.

    The weights of the loss that a TAO checkpoint holds are never used: `train.classify.cls_weight` decides.

    Raises:
        CheckpointError: They cannot be read, or do not fit: every tensor of a whole model must.
    """
    model, encoder = experiment.train.pretrained_model_path, experiment.model.backbone.pretrained_backbone_path
    if model:
        checkpoint = load_checkpoint(
            model,
            encryption_key=experiment.secret(),
            describe=lambda _: describe_tao(experiment, model),
        )
        load_exactly(
            network, checkpoint.state, where=model, fix="train.pretrained_model_path needs the network of its training."
        )
        described = checkpoint.description
        if experiment.model.decode_head.align_corners and not described.network.get("align_corners"):
            asked = described.spec.get("model", {}).get("decode_head", {}).get("align_corners")
            if asked:  # and TAO's network, which these weights are of, did not do it
                network.force_align_corners_off()
    elif encoder:
        load_backbone(network, encoder, encryption_key=experiment.secret())


def describe(experiment: Experiment, arguments: Mapping[str, Any], *, data_hash: str = "") -> ModelDescription:
    """Return the description of a network before its first validation.

    Args:
        experiment: The spec.
        arguments: The network's.
        data_hash: Of the rows that it is trained on; see `training_data_hash`.
    """
    return ModelDescription(
        network=dict(arguments),
        layout=picture_layout(experiment),
        threshold=Threshold(experiment.eval_margin),
        classes=experiment.classes,
        num_golden=experiment.dataset.classify.num_golden,
        image_ext=experiment.dataset.classify.image_ext,
        spec=experiment.public(),
        versions=package_versions(),
        data_hash=data_hash,
    )


def describe_tao(experiment: Experiment, path: str) -> ModelDescription:
    """Return the description of a TAO checkpoint's network by the spec of its training.

    A spec does not show whether a C-RADIO checkpoint was trained with the statistics that it writes: TAO 7.3 replaces
    ImageNet's, 6.25 does not (reference 3.5). It is read as 7.3 does, with a warning.
    """
    if "radio" in experiment.model.backbone.type and not any(experiment.statistics):
        logger.warning(
            "%s: the pictures get CLIP's mean and deviation, as TAO 7.3 trains C-RADIO. For a checkpoint of TAO 6.25 or "
            "earlier, which was trained with ImageNet's, write rgb_input_mean: [0.4852, 0.456, 0.406] and "
            "rgb_input_std: [0.229, 0.224, 0.225]: what is not exactly ImageNet's is taken as written.",
            path,
        )
    return describe(experiment, network_arguments(experiment))
