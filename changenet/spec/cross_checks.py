"""What must fit together: each check sees the whole experiment and says what contradicts what."""

from __future__ import annotations

from collections.abc import Iterator

from changenet.description import BINARY_CLASSES, PASS, UNSCORED
from changenet.model.catalogue import CATALOGUE, GOLDEN_CELL, unknown_backbone
from changenet.spec import encoders
from changenet.spec.actions import runs_engine_file
from changenet.spec.experiment import Experiment
from changenet.spec.finding import Finding
from changenet.spec.keys import DATA
from changenet.spec.quantize_checks import check_quantize
from changenet.spec.serve_checks import check_serve
from changenet.spec.workers import unshared_batch

TAO_NUM_INPUT = 8  # TAO's default beside a null input_map; its own spec writes both and means neither


def check(experiment: Experiment) -> Iterator[Finding]:
    """Yield every contradiction of the experiment; of a task that this version cannot do, only that."""
    if experiment.task == "segment":
        yield Finding(("task",), "is 'segment': segmentation is not available in this version", "Use task: classify.")
        return
    yield from _loss(experiment)
    yield from _weights(experiment)
    yield from _classes(experiment)
    yield from _lights(experiment)
    yield from _file_names(experiment)
    yield from _intervals(experiment)
    yield from _encoder(experiment)
    yield from _sizes(experiment)
    yield from _goldens(experiment)
    yield from _batch(experiment)
    yield from _engine_files(experiment)
    yield from check_quantize(experiment)
    yield from _profile(experiment)
    yield from check_serve(experiment.serve)


def _loss(experiment: Experiment) -> Iterator[Finding]:
    written = experiment.train.classify.loss
    fitting = "ce" if experiment.learnable else "contrastive"
    if written not in (None, fitting):
        module = experiment.model.classify.difference_module
        yield Finding(
            ("train.classify.loss", "model.classify.difference_module"),
            f"is {written!r}, but model.classify.difference_module is {module!r}",
            f"Use {fitting!r}, or leave the loss out.",
        )


def _weights(experiment: Experiment) -> Iterator[Finding]:
    weights = experiment.train.classify.cls_weight
    if weights is None or not experiment.learnable:
        return
    keys = ("train.classify.cls_weight", f"{DATA}.num_classes", f"{DATA}.classes", "model.classify.difference_module")
    if len(weights) != experiment.num_classes:
        yield Finding(
            keys,
            f"has {len(weights)} value(s) ({list(weights)}), but there are {experiment.num_classes} classes",
            f"Give {experiment.num_classes} weights, PASS first, or null.",
        )
    elif not any(weights):
        yield Finding(keys, f"is {list(weights)}: no class counts", "Give at least one weight above 0.")


def _classes(experiment: Experiment) -> Iterator[Finding]:
    listed, width = experiment.dataset.classify.classes, experiment.dataset.classify.num_classes
    if listed is None:
        return
    key = f"{DATA}.classes"
    if len(set(listed)) != len(listed) or not all(name.strip() == name != "" for name in listed):
        yield Finding((key,), f"is {list(listed)}", "Give every class a name of its own, without blanks around it.")
    if UNSCORED in listed:
        what = f"is {list(listed)}, but {UNSCORED} is what prediction says of a row that could not be scored"
        yield Finding((key,), what, "Choose another name.")
    if PASS in listed and listed[0] != PASS:
        yield Finding((key,), f"is {list(listed)}", "PASS must be the first class.")
    if experiment.classes == BINARY_CLASSES:
        what = f"is {list(listed)}, which means the same as no classes: any label but {PASS} is a defect"
        yield Finding((key,), what, "Leave classes out, or give the second class and its label another name: 'bad'.")
    if width is not None and width != len(experiment.classes):
        yield Finding(
            (f"{DATA}.num_classes", key),
            f"is {width}, but {key} lists {len(experiment.classes)} with PASS",
            "Leave num_classes out: classes decides.",
        )
    if not experiment.learnable:
        yield Finding(
            (key, "model.classify.difference_module"),
            f"is {list(listed)}, but model.classify.difference_module is 'euclidean', which knows no classes",
            "Use learnable, or leave classes out.",
        )


def _lights(experiment: Experiment) -> Iterator[Finding]:
    data, count = experiment.dataset.classify, len(experiment.lights)
    if data.input_map is not None and not all(name.strip() for name in data.input_map):
        yield Finding((f"{DATA}.input_map",), f"is {dict(data.input_map)}", "Give every light a name.")
    unset = data.input_map is None and data.num_input == TAO_NUM_INPUT
    if data.num_input not in (None, count) and not unset:
        lights = f"names {count} light(s)" if data.input_map else "is null, which means one light"
        yield Finding(
            (f"{DATA}.num_input", f"{DATA}.input_map"),
            f"is {data.num_input}, but {DATA}.input_map {lights}",
            "Make them agree, or leave num_input out.",
        )
        return
    columns, rows = data.grid_map.x, data.grid_map.y
    keys = (f"{DATA}.grid_map", f"{DATA}.num_input", f"{DATA}.input_map", f"{DATA}.concat_type")
    if data.concat_type == "grid" and count > 1 and columns * rows != count:
        yield Finding(
            keys,
            f"is {columns} x {rows} = {columns * rows} places, but there are {count} lights",
            "Columns times rows must be the number of lights; or use concat_type linear.",
        )
    elif data.concat_type == "grid" and count > 1 and count % 2:
        # TAO lays an odd number of lights out linearly without a word.
        yield Finding((keys[-1], *keys[:-1]), f"is 'grid', but {count} lights are an odd number", "Use linear.")


def _file_names(experiment: Experiment) -> Iterator[Finding]:
    suffix = experiment.dataset.classify.image_ext
    if suffix and "." not in suffix:
        yield Finding(
            (f"{DATA}.image_ext",), f"is {suffix!r}, which makes file names without a dot", f"Write '.{suffix}'."
        )


def _intervals(experiment: Experiment) -> Iterator[Finding]:
    train = experiment.train
    limits = {"validation_interval": train.validation_interval}
    if train.checkpoint_interval_unit == "epoch":
        limits["checkpoint_interval"] = train.checkpoint_interval
    if train.tensorboard.enabled:
        limits["tensorboard.infrequent_logging_frequency"] = train.tensorboard.infrequent_logging_frequency
    for name, value in limits.items():
        if value > train.num_epochs:
            yield Finding(
                (f"train.{name}", "train.num_epochs"),
                f"is {value}, but train.num_epochs is {train.num_epochs}",
                f"Use {'1' if train.num_epochs == 1 else f'1 to {train.num_epochs}'}, or raise num_epochs.",
            )


def _encoder(experiment: Experiment) -> Iterator[Finding]:
    backbone, key = experiment.model.backbone, "model.backbone.type"
    kind = encoders.family(backbone.type)
    if kind == "unknown":
        (problem,) = unknown_backbone(backbone.type, CATALOGUE).problems
        yield Finding((key,), problem.what, problem.fix)
    if backbone.feat_downsample and kind != "fan":
        yield Finding(
            ("model.backbone.feat_downsample", key), f"is true, but {backbone.type} is no FAN encoder", "Use false."
        )
    trained = backbone.pretrained_backbone_path or experiment.train.pretrained_model_path
    if backbone.freeze_backbone and not trained:
        yield Finding(
            (
                "model.backbone.freeze_backbone",
                "model.backbone.pretrained_backbone_path",
                "train.pretrained_model_path",
            ),
            "is true, but nothing names pretrained weights: random ones would stay random",
            "Set pretrained_backbone_path or train.pretrained_model_path, or freeze_backbone false.",
        )
    if backbone.pretrained_backbone_path == "bundled" and kind not in ("timm", "unknown"):
        yield Finding(
            ("model.backbone.pretrained_backbone_path", key),
            f"is 'bundled', but no installed package has weights of {backbone.type}",
            "Give a file, or use timm/tf_efficientnet_lite0.",
        )
    written = experiment.model.decode_head.feature_strides
    strides = encoders.known_facts(backbone.type, feat_downsample=backbone.feat_downsample).strides
    if experiment.learnable and written and strides and written != strides:
        yield Finding(
            (
                "model.decode_head.feature_strides",
                key,
                "model.backbone.feat_downsample",
                "model.classify.difference_module",
            ),
            f"is {list(written)}, but the strides of {backbone.type} are {list(strides)}",
            f"Use {list(strides)}, or leave it out.",
        )


def _sizes(experiment: Experiment) -> Iterator[Finding]:
    backbone, learnable = experiment.model.backbone, experiment.learnable
    facts = encoders.known_facts(backbone.type, feat_downsample=backbone.feat_downsample)
    multiple, strides = facts.multiple(learnable=learnable), facts.strides
    needs = f"{backbone.type} needs a multiple of"
    if learnable and experiment.dataset.classify.num_golden > 1 and strides is not None:
        multiple = GOLDEN_CELL * max(strides)  # of a timm encoder the network says it, once it is built
        needs = f"to compare with several goldens {needs}"
    keys = (
        f"{DATA}.grid_map",
        f"{DATA}.input_map",
        f"{DATA}.concat_type",
        f"{DATA}.num_input",
        "model.backbone",
        "model.classify.difference_module",
        f"{DATA}.num_golden",
    )
    (height, width), (columns, rows) = experiment.picture_size, experiment.grid
    for name, side, count in (("image_width", width, columns), ("image_height", height, rows)):
        if side % multiple:
            lights = f" ({count} lights of {side // count})" if count > 1 else ""
            yield Finding(
                (f"{DATA}.{name}", *keys),
                f"is {side // count}, which makes the picture {side} pixels{lights}; {needs} {multiple}",
                f"Use for example {max(multiple, round(side / multiple) * multiple)} pixels in all.",
            )
    if encoders.family(backbone.type) == "vit" and width != height:
        yield Finding(
            (f"{DATA}.image_width", f"{DATA}.image_height", *keys),
            f"makes the picture {width} x {height} pixels; {backbone.type} needs a square",
            "Use square lights, and concat_type grid for several.",
        )


def _goldens(experiment: Experiment) -> Iterator[Finding]:
    goldens, module = experiment.dataset.classify.num_golden, "model.classify.difference_module"
    if goldens > 1 and not experiment.learnable:
        yield Finding(
            (f"{DATA}.num_golden", module),
            f"is {goldens}, but {module} is 'euclidean', which compares with one golden",
            "Use learnable, or num_golden 1.",
        )


def _batch(experiment: Experiment) -> Iterator[Finding]:
    workers = experiment.train.ray.num_workers
    if workers is None:
        return
    fewest, most = workers if isinstance(workers, tuple) else (workers, workers)
    if fewest > most:
        yield Finding(("train.ray.num_workers",), f"is {[fewest, most]}", "Give [min, max] with min <= max.")
    elif problem := unshared_batch(experiment.dataset.classify.batch_size, fewest, most):
        yield Finding((f"{DATA}.batch_size", "train.ray.num_workers"), *problem)


def _engine_files(experiment: Experiment) -> Iterator[Finding]:
    for action in ("evaluate", "inference"):
        section = getattr(experiment, action)
        if runs_engine_file(section) and section.engine not in ("auto", "tensorrt"):
            yield Finding(
                (f"{action}.engine", f"{action}.trt_engine"),
                f"is {section.engine!r}, but {action}.trt_engine is all that there is to run",
                f"Name a {action}.checkpoint, or leave the engine out: TensorRT runs that file.",
            )


def _profile(experiment: Experiment) -> Iterator[Finding]:
    section = experiment.gen_trt_engine.tensorrt
    low, usual, high = section.min_batch_size, section.opt_batch_size, section.max_batch_size
    if not low <= usual <= high:
        prefix = "gen_trt_engine.tensorrt."
        yield Finding(
            tuple(f"{prefix}{name}_batch_size" for name in ("opt", "min", "max")),
            f"is {usual}, and batches are {low} (min_batch_size) to {high} (max_batch_size)",
            "Give min_batch_size <= opt_batch_size <= max_batch_size.",
        )
