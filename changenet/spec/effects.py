"""Values that are accepted and change nothing here: each gets one warning that says so.

The table below is the only place that knows them. An entry goes when its feature arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from changenet.spec import encoders
from changenet.spec.experiment import Experiment
from changenet.spec.keys import Key, all_keys, plain
from changenet.spec.tree import get, parse_path

Condition = Callable[[Experiment], bool]


def _always(_: Experiment) -> bool:
    return True


def _learnable(experiment: Experiment) -> bool:
    return experiment.learnable


def _euclidean(experiment: Experiment) -> bool:
    return not experiment.learnable


def _own_widths(experiment: Experiment) -> list[int]:
    return list(encoders.FAN_WIDTHS.get(experiment.model.backbone.type, ()))


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

    def keys(self) -> list[Key]:
        """Return the keys that it covers."""
        inside = (f"{self.path}.", f"{self.path}[].")
        return [key for key in all_keys().values() if key.path == self.path or key.path.startswith(inside)]


YET = "this version does not do it yet"
SCORED = ("evaluate", "inference")
AUGMENTATION = "dataset.classify.augmentation_config"

TABLE: tuple[WithoutEffect, ...] = (
    WithoutEffect("model_name", "it only names the network in TAO's launcher"),
    WithoutEffect("wandb", "nothing leaves the machine; see TensorBoard", when=lambda e: e.wandb.enable),
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
    WithoutEffect("model.classify.learnable_difference_modules", "the euclidean comparison has none", when=_euclidean),
    WithoutEffect("model.classify.embedding_vectors", "the learnable comparison has no embedding", when=_learnable),
    WithoutEffect(
        "model.classify.train_margin_euclid", "the learnable comparison has no contrastive loss", when=_learnable
    ),
    WithoutEffect("model.precise_msda", "only ViT encoders have deformable attention"),
    WithoutEffect("dataset.classify.concat_type", "there is one light only", when=lambda e: len(e.lights) == 1),
    WithoutEffect(
        "dataset.classify.grid_map",
        "concat_type is linear, or there is one light only",
        when=lambda e: len(e.lights) == 1 or e.dataset.classify.concat_type == "linear",
    ),
    WithoutEffect("dataset.classify.quant_calibration_dataset", YET),
    WithoutEffect(f"{AUGMENTATION}.with_scale_random_crop", "TAO's classification does not use it either"),
    *(
        WithoutEffect(
            f"{AUGMENTATION}.{name}",
            f"{AUGMENTATION}.augment is false",
            when=lambda e: not e.dataset.classify.augmentation_config.augment,
        )
        for name in (
            "random_flip",
            "random_rotate",
            "random_color",
            "random_shift",
        )
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
    WithoutEffect("train.checkpointer.enable_topk", YET),
    WithoutEffect("train.checkpointer.replace_periodic", YET),
    WithoutEffect("train.checkpointer.save_top_k", YET),
    WithoutEffect("train.checkpointer.filename", "the best checkpoint is model_best.pth"),
    WithoutEffect("train.checkpointer.dirpath", "checkpoints go to the train folder"),
    WithoutEffect("train.checkpointer.auto_insert_metric_name", "the best checkpoint is model_best.pth"),
    *(
        entry
        for action in SCORED
        for entry in (
            WithoutEffect(f"{action}.trt_engine", YET),
            WithoutEffect(f"{action}.is_quantized", YET),
            WithoutEffect(
                f"{action}.vis_after_n_batches", "this version writes no pictures while it scores", quiet=(1,)
            ),
        )
    ),
    WithoutEffect("export.gpu_id", "export runs on the CPU"),
    WithoutEffect("export.verbose", "there is no graph listing"),
    WithoutEffect("export.serialize_nvdsinfer", YET),
    WithoutEffect("export.format", "ONNX is written"),
    WithoutEffect("gen_trt_engine", YET),
    WithoutEffect("quantize", YET, quiet=("weight_only_ptq",)),
)


def without_effect(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """Yield (key, message) for every value that changes nothing, and for every value that is read differently."""
    values = experiment.model_dump(exclude={"encryption_key"})
    for entry in TABLE:
        if not entry.when(experiment):
            continue
        changed = {key.path: value for key in entry.keys() if (value := _chosen(values, key, entry)) is not None}
        if entry.path == "model.decode_head.in_channels" and _own_widths(experiment) in changed.values():
            continue
        if len(changed) == 1 and entry.path in changed:
            yield entry.path, f"{changed[entry.path]!r} has no effect: {entry.reason}"
        elif changed:
            listed = ", ".join(f"{path.removeprefix(entry.path)[1:]} {value!r}" for path, value in changed.items())
            yield entry.path, f"no effect ({listed}): {entry.reason}"
    yield from _read_differently(experiment)


def _chosen(values: dict[str, Any], key: Key, entry: WithoutEffect) -> Any:
    """Return the value of a key if it is neither unset, nor our default, nor one that TAO writes by itself."""
    if "[]" in key.path:
        return None  # Its list is a key of its own.
    value = plain(get(values, parse_path(key.path)))
    return None if value is None or value == key.default or value in entry.quiet else value


def _read_differently(experiment: Experiment) -> Iterator[tuple[str, str]]:
    data, margin = experiment.dataset.classify, experiment.model.classify.eval_margin
    if experiment.learnable and margin is not None and margin > 1:
        yield "model.classify.eval_margin", f"{margin} is no probability: 0.5 is used"
    if experiment.num_classes > 2 and data.classes is None:
        meaning = "labels stay PASS against defect, as in TAO; list dataset.classify.classes for real classes"
        yield "dataset.classify.num_classes", f"{experiment.num_classes} has TAO's meaning: {meaning}"
    for action in ("train", *SCORED):
        section = getattr(experiment, action)
        if isinstance(section.ray.num_workers, tuple):
            low, high = section.ray.num_workers
            yield (
                f"{action}.ray.num_workers",
                f"[{low}, {high}]: this version uses {high} workers, it does not scale yet",
            )
