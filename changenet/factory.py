"""From the spec to data, network and training objects: the only place that knows both sides."""

from __future__ import annotations

import hashlib
import logging
import os
import random
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from changenet import storage
from changenet.data.annotations import Annotations, read_annotations
from changenet.data.augment import PairAugmentation
from changenet.data.lights import PictureLayout
from changenet.data.loaders import Loader, TrainingLoader, scoring_loader
from changenet.data.pairs import PairDataset, PairSource
from changenet.data.randomness import derived_seed
from changenet.data.sampling import WeightedBatchSampler
from changenet.description import BINARY_CLASSES, ModelDescription, Threshold
from changenet.errors import DataError, Problem
from changenet.model.network import ChangeNet
from changenet.model.pretrained import load_backbone
from changenet.model.weight_files import load_exactly
from changenet.spec import Experiment
from changenet.training import losses, optimizers
from changenet.training.checkpoint import load_checkpoint, package_versions
from changenet.training.state import Stateful

logger = logging.getLogger(__name__)

Split = Literal["train", "validation", "test", "infer", "calibration"]


def picture_layout(experiment: Experiment) -> PictureLayout:
    """Return the lights, in order, and how they become one picture."""
    width, height = experiment.light_size
    data = experiment.dataset.classify
    return PictureLayout(
        lights=experiment.lights, concat=data.concat_type, grid=experiment.grid, width=width, height=height
    )


def pair_source(
    experiment: Experiment,
    split: Split,
    layout: PictureLayout,
    *,
    image_ext: str | None = None,
    num_golden: int | None = None,
) -> PairSource:
    """Return the rows and pictures of a split that the spec names; `image_ext` and `num_golden` win over the spec's.

    Raises:
        SpecError: The split has no `csv_path` or no `images_dir`.
        DataError: The CSV file is wrong, or `images_dir` is not a folder.
    """
    data, (files,) = experiment.dataset.classify, experiment.files(split)
    return PairSource(
        annotations=read_annotations(files.csv_path, require_label=split not in ("infer", "calibration")),
        images_dir=storage.absolute(files.images_dir),  # workers may run in another folder
        image_ext=image_ext or data.image_ext,
        layout=layout,
        num_golden=num_golden or data.num_golden,
    )


def targets(annotations: Annotations, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the class of each row, 0 = PASS; binary unless `classes` lists real ones.

    Raises:
        DataError: A label is none of the classes.
    """
    if classes == BINARY_CLASSES:
        return annotations.is_defect.astype(np.int64)
    labels = annotations.labels
    if labels is None:
        return annotations.is_defect.astype(np.int64)
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = sorted(set(labels) - set(numbers))
    if unknown:
        raise DataError(
            [
                Problem(
                    f"label {name!r} is not in dataset.classify.classes {list(classes)}",
                    where=annotations.where(int(np.argmax(labels == name))),
                    fix="Add the class or mend the label.",
                )
                for name in unknown
            ]
        )
    return np.array([numbers[label] for label in labels], dtype=np.int64)


def augmentation(experiment: Experiment) -> PairAugmentation | None:
    """Return the augmentation of training pairs, or None when it is off."""
    config = experiment.dataset.classify.augmentation_config
    if not config.augment:
        return None
    flip, rotate, color, shift = config.random_flip, config.random_rotate, config.random_color, config.random_shift
    return PairAugmentation(
        hflip_probability=flip.hflip_probability * flip.enable,
        vflip_probability=flip.vflip_probability * flip.enable,
        rotate_probability=rotate.rotate_probability * rotate.enable,
        angle_list=rotate.angle_list,
        crop=config.with_random_crop,
        blur=config.with_random_blur,
        color_probability=color.color_probability * color.enable,
        brightness=color.brightness,
        contrast=color.contrast,
        saturation=color.saturation,
        hue=color.hue,
        shift_probability=shift.probability * shift.enable,
        shift_max_pixels=shift.max_pixels,
    )


def training_loader(experiment: Experiment, *, rank: int = 0, world_size: int = 1, threads: int = 1) -> TrainingLoader:
    """Return the training batches of one rank.

    Raises:
        SpecError: The spec names no training set.
        DataError: The set is wrong, or too small for its batch size.
    """
    data, seed = experiment.dataset.classify, experiment.train.seed
    source = pair_source(experiment, "train", picture_layout(experiment))
    return TrainingLoader(
        dataset=PairDataset(
            source=source,
            targets=targets(source.annotations, experiment.classes),
            augmentation=augmentation(experiment),
            random_goldens=True,
            seed=seed,
        ),
        sampler=WeightedBatchSampler(
            source.annotations.is_defect,
            ratio=data.fpratio_sampling,
            batch_size=experiment.batch_size("train"),
            seed=seed,
            rank=rank,
            world_size=world_size,
        ),
        workers=_readers(experiment, threads),
    )


def validation_loader(
    experiment: Experiment, *, rank: int = 0, world_size: int = 1, threads: int = 1
) -> tuple[Loader, NDArray[np.object_]] | None:
    """Return this rank's validation batches and the labels of all rows; None when the spec names no validation set.

    Raises:
        DataError: The set is wrong.
    """
    if not experiment.dataset.classify.validation_dataset.csv_path:
        return None
    source = pair_source(experiment, "validation", picture_layout(experiment))
    dataset = PairDataset(source=source, targets=targets(source.annotations, experiment.classes))
    size = experiment.batch_size("evaluate")
    loader = scoring_loader(
        dataset, batch_size=size, workers=_readers(experiment, threads), rank=rank, world_size=world_size
    )
    return loader, np.asarray(source.annotations.labels)


def _readers(experiment: Experiment, threads: int) -> int:
    # More readers than CPUs only take turns.
    return min(experiment.dataset.classify.workers, max(1, threads))


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


def make_loss(experiment: Experiment) -> losses.Loss:
    """Return the loss of the spec."""
    return losses.make_loss(
        experiment.loss,
        margin=experiment.model.classify.train_margin_euclid,
        class_weights=experiment.train.classify.cls_weight,
    )


def make_stateful(
    experiment: Experiment, network: ChangeNet, *, steps_per_epoch: int, device: torch.device
) -> Stateful:
    """Return optimiser, schedule, gradient scaler and weight average for a network that is on its device."""
    settings = experiment.train
    optimizer = optimizers.make_optimizer(
        network.parameters(),
        name=settings.optim.optim,
        learning_rate=settings.optim.lr,
        weight_decay=settings.optim.weight_decay,
        momentum=settings.optim.momentum,
    )
    schedule = optimizers.make_schedule(
        optimizer,
        policy=settings.optim.policy,
        steps_per_epoch=steps_per_epoch,
        num_epochs=settings.num_epochs,
        warmup_steps=settings.optim.warmup_steps,
    )
    average = None
    if settings.ema_decay is not None:
        swa = torch.optim.swa_utils
        decay = swa.get_ema_multi_avg_fn(settings.ema_decay)  # type: ignore[no-untyped-call]
        average = swa.AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "16-mixed")
    return Stateful(optimizer=optimizer, schedule=schedule, scaler=scaler, average=average)


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


def training_data_hash(experiment: Experiment) -> str:
    """Return the SHA-256 of the training CSV."""
    return hashlib.sha256(storage.read_bytes(experiment.dataset.classify.train_dataset.csv_path)).hexdigest()


def seed_process(experiment: Experiment, *, rank: int) -> None:
    """Seed every random generator of this process, and choose cuDNN's kernels, as the spec says."""
    if experiment.train.seed >= 0:
        seed = derived_seed("process", seed=experiment.train.seed, rank=rank)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
    cudnn = experiment.train.cudnn
    torch.backends.cudnn.benchmark = cudnn.benchmark
    torch.backends.cudnn.deterministic = cudnn.deterministic
    if cudnn.deterministic and torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
