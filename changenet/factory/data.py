"""From the spec to rows, pictures and batches."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from changenet import storage
from changenet.data.annotations import Annotations, read_annotations
from changenet.data.augment import PairAugmentation
from changenet.data.lights import PictureLayout
from changenet.data.loaders import Loader, TrainingLoader, scoring_loader
from changenet.data.pairs import PairDataset, PairSource
from changenet.data.sampling import WeightedBatchSampler
from changenet.description import BINARY_CLASSES
from changenet.errors import DataError, Problem
from changenet.spec import Experiment

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
            where=source.annotations.path,
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


def training_data_hash(experiment: Experiment) -> str:
    """Return the SHA-256 of the training CSV."""
    return hashlib.sha256(storage.read_bytes(experiment.dataset.classify.train_dataset.csv_path)).hexdigest()
