"""`train`: epochs, optimizer, loss, checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from changenet.spec.section import Integer, Number, Positive, Section
from changenet.spec.workers import RayWorkers

Loss = Literal["ce", "contrastive"]
Monitor = Literal[
    "val_loss",
    "val_acc",
    "val_fpr",
    "val_fnr",
    "val_far",
    "val_auroc",
    "val_average_precision",
    "train_loss",
    "train_acc",
    "train_fpr",
]
NotNegative = Annotated[Number, Field(ge=0)]
GpuIds = tuple[Annotated[Integer, Field(ge=0)], ...]


def _is_name(template: str) -> str:
    """Make sure that a template names a different file each epoch."""
    try:
        names = {
            template.format(**dict.fromkeys(get_args(Monitor), 0.0), epoch=number, step=number) for number in (0, 1)
        }
    except (LookupError, ValueError) as error:
        raise ValueError(f"cannot be filled in ({error}); epoch, step and the metrics are known") from error
    if len(names) == 1 or any("/" in name for name in names):
        raise ValueError("must be a plain name that differs from epoch to epoch, such as model_best_{epoch:03d}")
    return template


class Cudnn(Section):
    """`train.cudnn`."""

    benchmark: bool = Field(default=False, description="Let cuDNN try its kernels and keep the fastest.")
    deterministic: bool = Field(default=True, description="Only kernels that give the same result every time.")


class ClassifyTrain(Section):
    """`train.classify`: the loss."""

    loss: Loss | None = Field(
        default=None, description="ce (learnable) or contrastive (euclidean). Unset: what fits difference_module."
    )
    cls_weight: tuple[NotNegative, ...] | None = Field(
        default=None, description="Weight of each class in ce, PASS first. Unset: all alike."
    )


class SegmentTrain(Section):
    """`train.segment`: accepted so that TAO specs load."""

    loss: Literal["ce", "mmiou"] = Field(default="ce", description="Loss of segmentation.")
    weights: tuple[NotNegative, ...] = Field(default=(0.5, 0.5, 0.5, 0.8, 1.0), description="Weight of each scale.")


class Tensorboard(Section):
    """`train.tensorboard`."""

    enabled: bool = Field(
        default=True, description="Write pictures and histograms for TensorBoard; scalars are always written."
    )
    infrequent_logging_frequency: Positive = Field(default=1, description="Epochs between pictures and histograms.")


class Checkpointer(Section):
    """`train.checkpointer`: which checkpoints are kept."""

    enable_topk: bool = Field(
        default=False, description="Keep the best epochs in files of their own, beside model_best.pth."
    )
    replace_periodic: bool = Field(
        default=False, description="Keep only the newest periodic checkpoint, for a run to go on from."
    )
    monitor: Monitor | None = Field(
        default=None, description="Metric of the best checkpoint; wins over optim.monitor_name."
    )
    mode: Literal["min", "max"] | None = Field(
        default=None, description="Which way is better. Unset: what fits the metric."
    )
    save_top_k: Annotated[Integer, Field(ge=-1)] = Field(
        default=1, description="Best epochs that enable_topk keeps; -1 = all."
    )
    filename: Annotated[str, AfterValidator(_is_name)] = Field(
        default="model_best_{epoch:03d}",
        description="Name of the files of enable_topk, without .pth; epoch, step and metrics in braces.",
    )
    dirpath: str | None = Field(default=None, description="Folder of the best checkpoints.")
    auto_insert_metric_name: bool = Field(default=False, description="Put the metric into the name.")


class Optim(Section):
    """`train.optim`: the optimizer and its schedule."""

    optim: Literal["adamw", "adam", "sgd"] = Field(default="adamw", description="The optimizer.")
    lr: NotNegative = Field(default=0.0005, description="Learning rate at the start (cosine: at its highest).")
    policy: Literal["linear", "step", "cosine"] = Field(
        default="linear", description="linear and step fall once an epoch, as TAO; cosine every step."
    )
    momentum: Annotated[Number, Field(ge=0, lt=1)] = Field(default=0.9, description="Momentum of sgd.")
    weight_decay: NotNegative = Field(default=0.1, description="Weight decay.")
    monitor_name: Monitor = Field(default="val_loss", description="Metric that picks the best checkpoint.")
    warmup_steps: Annotated[Integer, Field(ge=0)] = Field(
        default=0, description="Steps in which the learning rate rises from 0."
    )
    betas: tuple[Annotated[Number, Field(ge=0, lt=1)], Annotated[Number, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.999), description="Betas of adam and adamw; fixed, as in TAO."
    )


class EarlyStopping(Section):
    """`train.early_stopping`: stop when the monitored metric no longer gets better (not in TAO)."""

    enable: bool = Field(default=False, description="Stop early.")
    patience: Positive = Field(default=5, description="Validations without improvement before stopping.")
    min_delta: NotNegative = Field(default=0.0, description="Smallest change that counts as an improvement.")


class Train(Section):
    """`train`: everything that only training needs."""

    num_gpus: Positive = Field(default=1, description="GPUs a node; the CPU is used where there are none.")
    gpu_ids: GpuIds = Field(default=(0,), description="GPUs a node, counted: CUDA_VISIBLE_DEVICES chooses which.")
    num_nodes: Positive = Field(default=1, description="Machines of the cluster to use.")
    seed: Integer = Field(default=1234, description="Seed of every random choice; negative = a different one each run.")
    cudnn: Cudnn = Cudnn()
    num_epochs: Positive = Field(default=10, description="Passes over the training draw.")
    checkpoint_interval: Positive = Field(default=1, description="Epochs or steps between checkpoints.")
    checkpoint_interval_unit: Literal["epoch", "step"] = Field(
        default="epoch", description="Unit of checkpoint_interval."
    )
    validation_interval: Positive = Field(default=1, description="Epochs between validations.")
    resume_training_checkpoint_path: str | None = Field(
        default=None,
        description="Checkpoint to go on from. Unset: the latest one in the train folder, if there is one.",
    )
    pretrained_model_path: str | None = Field(
        default=None, description="Checkpoint, ours or TAO's, whose weights a run starts from, at epoch 0."
    )
    results_dir: str | None = Field(default=None, description="Output folder of this action. Unset: results_dir/train.")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        default="32-true",
        description="Number format of training; a CPU without instructions for it takes 32-true, with a warning.",
    )
    sync_batchnorm: bool = Field(default=False, description="Batch statistics over all workers.")
    use_distributed_sampler: bool = Field(default=False, description="The sampler is always distributed here.")
    classify: ClassifyTrain = ClassifyTrain()
    segment: SegmentTrain = SegmentTrain()
    tensorboard: Tensorboard = Tensorboard()
    checkpointer: Checkpointer = Checkpointer()
    optim: Optim = Optim()
    ray: RayWorkers = RayWorkers()
    early_stopping: EarlyStopping = EarlyStopping()
    ema_decay: Annotated[Number, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Decay of a moving average of the weights, which is what is validated and kept."
    )
    clip_grad_norm: Annotated[Number, Field(gt=0)] | None = Field(
        default=None, description="Largest norm of the gradient."
    )
    accumulate_grad_batches: Positive = Field(default=1, description="Batches a step of the optimizer.")
