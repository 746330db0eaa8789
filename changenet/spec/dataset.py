"""`dataset`: the CSV files, the pictures and how they are drawn."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from changenet.spec.augmentation import ClassifyAugmentation, SegmentAugmentation
from changenet.spec.section import Integer, Lights, Number, Options, Positive, Section

Count = Annotated[Integer, Field(ge=0)]


class Split(Section):
    """One CSV file and the folder its paths start from."""

    null_is_unset: ClassVar[frozenset[str]] = frozenset({"csv_path", "images_dir"})

    csv_path: str = Field(default="", description="CSV file of the pairs.")
    images_dir: str = Field(default="", description="Folder that the paths in the CSV start from.")


class CalibrationImages(Section):
    """Pictures for static quantization."""

    null_is_unset: ClassVar[frozenset[str]] = frozenset({"images_dir"})

    images_dir: str = Field(default="", description="Folder of pictures for static quantization.")


class CalibrationPairs(CalibrationImages):
    """What static quantization sees. Unset: a sample of the training set."""

    null_is_unset: ClassVar[frozenset[str]] = frozenset({"csv_path", "images_dir"})

    csv_path: str = Field(default="", description="CSV file of pairs; without it each picture is its own golden.")


class GridMap(Section):
    """How many lights beside and above each other."""

    null_is_unset: ClassVar[frozenset[str]] = frozenset({"x", "y"})

    x: Positive = Field(default=2, description="Columns of the grid.")
    y: Positive = Field(default=2, description="Rows of the grid.")


class ClassifyDataset(Section):
    """`dataset.classify`: pairs of pictures with a label."""

    null_is_unset: ClassVar[frozenset[str]] = frozenset({"image_ext", "concat_type"})

    train_dataset: Split = Split()
    validation_dataset: Split = Split()
    test_dataset: Split = Split()
    infer_dataset: Split = Split()
    image_ext: str = Field(default=".jpg", description="Appended to every picture path, with its dot.")
    batch_size: Positive = Field(default=32, description="Pairs a batch over all workers together (TAO: a GPU).")
    workers: Count = Field(
        default=8,
        description="Processes that read pictures for training, at most one a CPU; 0 = the training process itself.",
    )
    fpratio_sampling: Annotated[Number, Field(gt=0)] = Field(
        default=0.1, description="Defects a good pair in the training draw: r gives a share of r / (1 + r)."
    )
    num_input: Positive | None = Field(
        default=None, description="Number of lights. Unset: the length of input_map, or 1."
    )
    input_map: Lights | None = Field(
        default=None,
        description="The lights: file suffix -> number; the order in the file counts. Unset: one picture without suffix.",
    )
    concat_type: Literal["linear", "grid"] = Field(
        default="linear", description="Lights above each other, or in a grid."
    )
    grid_map: GridMap = GridMap()
    image_width: Positive | None = Field(
        default=None, description="Width of one light in pixels. Unset: 128 (ViT: 224)."
    )
    image_height: Positive | None = Field(
        default=None, description="Height of one light in pixels. Unset: 128 (ViT: 224)."
    )
    num_classes: Annotated[Integer, Field(ge=2)] | None = Field(
        default=None, description="Width of the classifier's output. Unset: the length of classes, or 2."
    )
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(
        default=None, description="Class names, PASS first, for real classes. Unset: PASS against any defect."
    )
    num_golden: Positive = Field(default=1, description="Goldens a pair; above 1 golden_path is a folder.")
    augmentation_config: ClassifyAugmentation = ClassifyAugmentation()
    quant_calibration_dataset: CalibrationPairs = CalibrationPairs()


class SegmentDataset(Section):
    """`dataset.segment`: accepted so that TAO specs load; segmentation is not available in this version."""

    root_dir: str = Field(default="", description="Root of the data set.")
    dataset: str = Field(default="CNDataset", description="Kind of data set.")
    data_name: str = Field(default="LEVIR", description="LEVIR, LandSCD or custom.")
    label_transform: str | None = Field(default="norm", description="norm or null.")
    image_folder_name: str = Field(default="A", description="Folder of the goldens.")
    change_image_folder_name: str = Field(default="B", description="Folder of the test pictures.")
    annotation_folder_name: str = Field(default="label", description="Folder of the masks.")
    list_folder_name: str = Field(default="list", description="Folder of the split lists.")
    train_split: str = Field(default="train", description="List for training.")
    validation_split: str = Field(default="val", description="List for validation.")
    test_split: str = Field(default="test", description="List for evaluation.")
    predict_split: str = Field(default="test", description="List for inference.")
    label_suffix: str = Field(default=".png", description="Suffix of the masks.")
    img_size: Positive = Field(default=224, description="Side of the square pictures.")
    num_classes: Annotated[Integer, Field(ge=2)] = Field(default=2, description="Classes of a mask.")
    batch_size: Positive = Field(default=8, description="Pairs a batch.")
    workers: Count = Field(default=8, description="Processes that read pictures.")
    shuffle: bool = Field(default=True, description="Shuffle.")
    multi_scale_train: bool = Field(default=True, description="Loss at several scales.")
    multi_scale_infer: bool = Field(default=False, description="Prediction at several scales.")
    color_map: Options | None = Field(default=None, description="Colour of each class.")
    augmentation: SegmentAugmentation = SegmentAugmentation()
    quant_calibration_dataset: CalibrationImages = CalibrationImages()


class Dataset(Section):
    """`dataset`: what is trained and judged on."""

    classify: ClassifyDataset = ClassifyDataset()
    segment: SegmentDataset = SegmentDataset()
