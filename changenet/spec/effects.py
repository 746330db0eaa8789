"""Values that are accepted and change nothing here: each gets one warning that says so.

The table below is the only place that knows them. An entry goes when its feature arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from changenet.spec import encoders
from changenet.spec.actions import runs_engine_file
from changenet.spec.experiment import Experiment
from changenet.spec.finding import Notice
from changenet.spec.keys import AUGMENTATION, all_keys, plain
from changenet.spec.quantize_checks import unused_in_layer_rules
from changenet.spec.tree import get, parse_path

Condition = Callable[[Experiment], bool]


def _always(_: Experiment) -> bool:
    return True


def _learnable(experiment: Experiment) -> bool:
    return experiment.learnable


def _euclidean(experiment: Experiment) -> bool:
    return not experiment.learnable


def _own_widths(experiment: Experiment) -> list[int]:
    backbone = experiment.model.backbone
    return list(encoders.known_facts(backbone.type, feat_downsample=backbone.feat_downsample).widths or ())


@dataclass(frozen=True)
class WithoutEffect:
    """A key, or all keys of a section, that change nothing.

    Args:
        path: The key or section.
        reason: Why, as the end of "… has no effect: ".
        quiet: Values besides our default that need no warning: TAO's own defaults.
        when: When the key has no effect.
    """

    path: str
    reason: str
    quiet: tuple[Any, ...] = ()
    when: Condition = _always

    @property
    def unconditional(self) -> bool:
        """Whether the key changes nothing in any spec."""
        return self.when is _always

    def defaults(self) -> dict[str, Any]:
        """Return the default of every key that it covers; a list of sections is one key."""
        covered = [key for key in all_keys().values() if f"{key.path}.".startswith(f"{self.path}.")]
        return {key.path.split("[]")[0]: [] if "[]" in key.path else key.default for key in covered}


SCORED: tuple[Literal["evaluate"], Literal["inference"]] = ("evaluate", "inference")
UNREAD_SECTIONS = ("dataset.segment", "train.segment")  # TAO's specs carry them whatever the task: no warning
ACTIONS: tuple[Literal["train", "evaluate", "inference"], ...] = ("train", *SCORED)
SMALL_WORKSPACE = 256  # MB; below, GiB are meant
RANDOM = ("random_flip", "random_rotate", "random_color", "random_shift")

TABLE: tuple[WithoutEffect, ...] = (
    *(
        WithoutEffect(f"{action}.ray.{key}", "only training keeps snapshots and restarts its workers")
        for action in SCORED
        for key in ("storage_path", "max_failures")
    ),
    WithoutEffect("model_name", "it only names the network in TAO's launcher"),
    WithoutEffect(
        "wandb",
        "nothing leaves the machine; see TensorBoard",
        quiet=("TAO Toolkit Training",),
        when=lambda e: e.wandb.enable,
    ),
    WithoutEffect(
        "model.decode_head.feature_strides",
        "the euclidean comparison uses one level only",
        quiet=([4, 8, 16, 16], [4, 8, 16, 32]),
        when=_euclidean,
    ),
    WithoutEffect("model.decode_head.align_corners", "the euclidean comparison resizes no levels", when=_euclidean),
    WithoutEffect("model.decode_head.decoder_params", "the euclidean comparison projects no levels", when=_euclidean),
    WithoutEffect("model.decode_head.in_channels", "the encoder's own widths are used", quiet=([128, 256, 384, 384],)),
    WithoutEffect("model.decode_head.in_index", "learnable_difference_modules decides", quiet=([0, 1, 2, 3],)),
    WithoutEffect(
        "model.classify.embed_dec", "the euclidean comparison has no classifier", quiet=(5,), when=_euclidean
    ),
    WithoutEffect(
        "model.classify.head",
        "of a ViT the euclidean comparison sees one vector, no map to pool",
        quiet=("flatten",),
        when=lambda e: not e.learnable and encoders.family(e.model.backbone.type) == "vit",
    ),
    WithoutEffect("model.classify.learnable_difference_modules", "the euclidean comparison has none", when=_euclidean),
    WithoutEffect("model.classify.embedding_vectors", "the learnable comparison has no embedding", when=_learnable),
    WithoutEffect(
        "model.classify.train_margin_euclid", "the learnable comparison has no contrastive loss", when=_learnable
    ),
    WithoutEffect(
        "model.classify.golden_gradients",
        "there is one golden a pair",
        when=lambda e: e.dataset.classify.num_golden == 1,
    ),
    WithoutEffect(
        "model.classify.eval_margin",
        "evaluate.threshold.policy is recall",
        when=lambda e: e.evaluate.threshold.policy == "recall",
    ),
    WithoutEffect(
        "evaluate.threshold.target", "the threshold policy is margin", when=lambda e: e.threshold_policy == "margin"
    ),
    WithoutEffect(
        "model.backbone.pretrained_backbone_path",
        "train.pretrained_model_path brings the whole model",
        when=lambda e: bool(e.train.pretrained_model_path),
    ),
    WithoutEffect(
        "model.precise_msda",
        "deformable attention runs in plain PyTorch: repeatable on a CPU, on a GPU but for rounding",
    ),
    WithoutEffect("dataset.classify.concat_type", "there is one light only", when=lambda e: len(e.lights) == 1),
    WithoutEffect(
        "dataset.classify.grid_map",
        "concat_type is linear, or there is one light only",
        when=lambda e: len(e.lights) == 1 or e.dataset.classify.concat_type == "linear",
    ),
    WithoutEffect(
        "dataset.classify.quant_calibration_dataset",
        "quantize.backend is torchao, which needs none",
        when=lambda e: e.quantize.backend == "torchao",
    ),
    WithoutEffect(f"{AUGMENTATION}.with_scale_random_crop", "TAO's classification does not use it either"),
    *(
        WithoutEffect(
            f"{AUGMENTATION}.{name}",
            f"{AUGMENTATION}.augment is false",
            quiet=(False,),
            when=lambda e: not e.dataset.classify.augmentation_config.augment,
        )
        for name in RANDOM
    ),
    *(
        WithoutEffect(
            f"{AUGMENTATION}.{name}",
            f"{AUGMENTATION}.{name}.enable is false",
            quiet=(False,),
            when=lambda e, name=name: (  # type: ignore[misc]
                e.dataset.classify.augmentation_config.augment
                and not getattr(e.dataset.classify.augmentation_config, name).enable
            ),
        )
        for name in RANDOM
    ),
    WithoutEffect(
        "train.tensorboard.infrequent_logging_frequency",
        "train.tensorboard.enabled is false",
        quiet=(2,),
        when=lambda e: not e.train.tensorboard.enabled,
    ),
    *(
        WithoutEffect(
            f"train.early_stopping.{name}",
            "train.early_stopping.enable is false",
            when=lambda e: not e.train.early_stopping.enable,
        )
        for name in ("patience", "min_delta")
    ),
    WithoutEffect("train.optim.momentum", "only sgd has momentum", when=lambda e: e.train.optim.optim != "sgd"),
    WithoutEffect("train.optim.betas", "they are fixed, as in TAO"),
    WithoutEffect(
        "train.optim.monitor_name",
        "train.checkpointer.monitor wins",
        when=lambda e: e.train.checkpointer.monitor not in (None, e.train.optim.monitor_name),
    ),
    WithoutEffect(
        "train.classify.cls_weight", "the contrastive loss has no classes", quiet=([1.0, 10.0],), when=_euclidean
    ),
    *(
        WithoutEffect(
            f"train.checkpointer.{name}",
            "train.checkpointer.enable_topk is false",
            when=lambda e: not e.train.checkpointer.enable_topk,
        )
        for name in ("save_top_k", "filename")
    ),
    WithoutEffect("train.checkpointer.dirpath", "checkpoints go to the train folder"),
    WithoutEffect("train.checkpointer.auto_insert_metric_name", "train.checkpointer.filename is the whole name"),
    *(
        entry
        for action in SCORED
        for entry in (
            WithoutEffect(
                f"{action}.trt_engine",
                f"{action}.checkpoint is used unless {action}.engine is tensorrt",
                when=lambda e, action=action: not runs_engine_file(getattr(e, action)),  # type: ignore[misc]
            ),
            WithoutEffect(
                f"{action}.vis_after_n_batches", "this version writes no pictures while it scores", quiet=(1,)
            ),
        )
    ),
    WithoutEffect("export.gpu_id", "export runs on the CPU"),
    WithoutEffect("export.verbose", "there is no graph listing"),
    WithoutEffect("export.format", "ONNX is written"),
    *(
        WithoutEffect(f"gen_trt_engine.{key}", "the ONNX file's is used")
        for key in ("input_channel", "input_width", "input_height", "opset_version")
    ),
    *(
        WithoutEffect(
            f"gen_trt_engine.tensorrt.{key}",
            "gen_trt_engine.batch_size decides",
            when=lambda e: e.gen_trt_engine.batch_size > 0,
        )
        for key in ("min_batch_size", "opt_batch_size", "max_batch_size")
    ),
    WithoutEffect(
        "gen_trt_engine.tensorrt.calibration", "int8 comes from changenet quantize, whose graphs hold their ranges"
    ),
    WithoutEffect("quantize.device", "quantization runs on the CPU", quiet=("cpu",)),
    WithoutEffect("quantize.backend_kwargs", "the settings of docs/quantization.md are used"),
    WithoutEffect(
        "quantize.algorithm",
        "torchao needs no ranges",
        quiet=("minmax", "max"),
        when=lambda e: e.quantize.backend == "torchao",
    ),
)


def without_effect(experiment: Experiment) -> Iterator[Notice]:
    """Yield a notice for every value that changes nothing, and for every value that is read differently."""
    values = plain(experiment.model_dump(exclude={"encryption_key"}))
    for entry in TABLE:
        changed = _changed(values, entry) if entry.when(experiment) else {}
        if entry.path == "model.decode_head.in_channels" and _own_widths(experiment) in changed.values():
            continue
        if not changed:
            continue
        if list(changed) == [entry.path]:
            message = f"{changed[entry.path]!r} has no effect: {entry.reason}"
        else:
            listed = ", ".join(f"{path.removeprefix(entry.path)[1:]} {value!r}" for path, value in changed.items())
            message = f"no effect ({listed}): {entry.reason}"
        yield Notice(entry.path, message, dict.fromkeys(changed))
    yield from _read_differently(experiment)


def no_effect(key: str, experiment: Experiment) -> str | None:
    """Return why a key changes nothing in this spec, whatever its value; None where it does."""
    covering = (entry for entry in TABLE if f"{key}.".startswith(f"{entry.path}.") and entry.when(experiment))
    return next((entry.reason for entry in covering), None)


def _changed(values: dict[str, Any], entry: WithoutEffect) -> dict[str, Any]:
    """Return the values that an entry covers and that are neither unset, nor our default, nor TAO's own."""
    changed = {}
    for path, default in entry.defaults().items():
        value = get(values, parse_path(path))
        known = (None, "", [], {}, default, *entry.quiet)
        if not any(type(value) is type(each) and value == each for each in known):  # 1 is not true
            changed[path] = value
    return changed


def _read_differently(experiment: Experiment) -> Iterator[Notice]:
    data, margin = experiment.dataset.classify, experiment.model.classify.eval_margin
    if experiment.learnable and margin is not None and margin > 1:
        key = "model.classify.eval_margin"
        yield Notice(key, f"{margin} is no probability: 0.5 is used", {key: 0.5})
    if experiment.num_classes > 2 and data.classes is None:
        yield Notice(
            "dataset.classify.num_classes",
            f"{experiment.num_classes} means PASS against defect, as in TAO; real classes need dataset.classify.classes",
            {},  # without it the network would be another one
        )
    for action in ACTIONS:
        ids, counted = list(getattr(experiment, action).gpu_ids), list(range(experiment.num_gpus(action)))
        if ids != counted[: len(ids)]:
            message = f"{ids} is only counted: CUDA_VISIBLE_DEVICES chooses the GPUs of a machine"
            yield Notice(f"{action}.gpu_ids", message, {f"{action}.gpu_ids": counted})
    workspace = experiment.gen_trt_engine.tensorrt.workspace_size
    if workspace < SMALL_WORKSPACE:
        key = "gen_trt_engine.tensorrt.workspace_size"
        yield Notice(key, f"{workspace} is MB; TAO's own programs read GiB", {key: workspace * 1024})
    yield from unused_in_layer_rules(experiment)
