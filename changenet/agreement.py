"""Whether a spec says the same as a checkpoint: one way to compare them for every action that opens one.

What is compared are the keys that shape network and pictures (`facts`), and for going on with a run also those that
shape data, loss and optimiser. Evaluation compares what the user wrote; keys that are left out never contradict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from changenet.description import ModelDescription
from changenet.errors import Problem
from changenet.factory import describe, network_arguments
from changenet.spec import Experiment, encoders
from changenet.spec.keys import AUGMENTATION, CLASSIFY, DATA, plain
from changenet.spec.section import Section
from changenet.spec.stored import read_stored
from changenet.spec.tree import get, parse_path

SomeSection = TypeVar("SomeSection", bound=Section)

# Arguments of the network and the keys that give them; (key, difference modules that it matters to).
_BOTH, _LEARNABLE, _EUCLIDEAN = ("learnable", "euclidean"), ("learnable",), ("euclidean",)
ARGUMENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "backbone": ("model.backbone.type", _BOTH),
    "feat_downsample": ("model.backbone.feat_downsample", _BOTH),
    "difference_module": (f"{CLASSIFY}.difference_module", _BOTH),
    "head": (f"{CLASSIFY}.head", _BOTH),
    "embed_dim": ("model.decode_head.decoder_params.embed_dim", _LEARNABLE),
    "align_corners": ("model.decode_head.align_corners", _LEARNABLE),
    "use_summary_token": ("model.decode_head.use_summary_token", _LEARNABLE),
    "learnable_difference_modules": (f"{CLASSIFY}.learnable_difference_modules", _LEARNABLE),
    "embed_dec": (f"{CLASSIFY}.embed_dec", _LEARNABLE),
    "num_classes": (f"{DATA}.num_classes", _LEARNABLE),
    "embedding_vectors": (f"{CLASSIFY}.embedding_vectors", _EUCLIDEAN),
    "mean": (f"{AUGMENTATION}.rgb_input_mean", _BOTH),
    "std": (f"{AUGMENTATION}.rgb_input_std", _BOTH),
}


def facts(description: ModelDescription) -> dict[str, Any]:
    """Return what a description says about network and pictures, by the keys of the spec that say it."""
    network, layout = description.network, description.layout
    found: dict[str, Any] = {
        f"{DATA}.image_width": layout.width,
        f"{DATA}.image_height": layout.height,
        f"{DATA}.num_input": len(layout.lights),
        f"{DATA}.input_map": list(layout.lights),
        f"{DATA}.num_golden": description.num_golden,
        f"{DATA}.classes": list(description.classes),
    }
    if len(layout.lights) > 1:
        found[f"{DATA}.concat_type"] = layout.concat
        if layout.concat == "grid":
            found[f"{DATA}.grid_map"] = list(layout.grid)
    for argument, (key, modules) in ARGUMENTS.items():
        if network.get("difference_module") in modules and network.get(argument) is not None:
            found[key] = plain(network[argument])
    backbone = str(network.get("backbone"))
    if encoders.family(backbone) != "vit" or "nvdinov2" in backbone:  # the others have no choice
        found.pop(ARGUMENTS["use_summary_token"][0], None)
    return found


def contradictions(experiment: Experiment, stored: ModelDescription, path: str) -> Iterator[Problem]:
    """Yield every key that the spec writes and that says something else than the checkpoint at `path`.

    What a checkpoint's own spec says is no contradiction, even where the network had to be built otherwise.
    """
    yield from compare(experiment, facts(stored), path, also=stored.spec)


def compare(
    experiment: Experiment, known: Mapping[str, Any], path: str, *, also: Mapping[str, Any] | None = None
) -> Iterator[Problem]:
    """Yield every key that the spec writes and that is neither what is known by `facts` nor what `also` says."""
    encoder = ARGUMENTS["backbone"][0]
    if encoder in known and written(experiment, encoder) is None:  # what mean and std mean depends on it
        experiment = filled(experiment, encoder, known[encoder])
    for key, value in known.items():
        said = written(experiment, key)
        if said is not None and said not in (value, plain(get(also or {}, parse_path(key)))):
            yield Problem(
                f"is {said!r}, but {path} was trained with {value!r}",
                where=key,
                fix="Leave the key out, or name the checkpoint that was trained so.",
            )


def written(experiment: Experiment, key: str) -> Any:
    """Return what the spec file says about a key, in the terms of `facts`; None where it says nothing."""
    *sections, name = key.split(".")
    section: Any = experiment
    for part in sections:
        section = getattr(section, part)
    if name not in section.model_fields_set:
        return None
    value = getattr(section, name)
    match name:
        case "num_input":
            return None if value is None else len(experiment.lights)
        case "input_map":  # null is an answer here: one picture without suffix
            return list(experiment.lights)
        case "grid_map":  # whether or not the spec says that there is a grid
            return [value.x, value.y]
        case "classes":
            return None if value is None else list(experiment.classes)
        case "rgb_input_mean" | "rgb_input_std":  # not what is written where the encoder's own are used instead
            return plain(network_arguments(experiment)[name.removeprefix("rgb_input_")])
        case _:
            return plain(value)


def filled(section: SomeSection, key: str, value: Any) -> SomeSection:
    """Return a copy in which a key counts as written and has a value, which must be right for it."""
    name, _, rest = key.partition(".")
    return section.model_copy(update={name: filled(getattr(section, name), rest, value) if rest else value})


# What a run that goes on takes from its spec, whatever it began with.
ADJUSTABLE = (
    *(f"train.optim.{name}" for name in ("lr", "policy", "momentum", "weight_decay", "warmup_steps")),
    "train.clip_grad_norm",
    "train.seed",
)


def adjustments(experiment: Experiment, stored: ModelDescription) -> Iterator[str]:
    """Yield what changes in a run that goes on where a checkpoint ended, and may: `KEY from OLD to NEW`."""
    ours, theirs = plain(experiment.model_dump()), plain(read_stored(stored.spec).model_dump())
    for key in ADJUSTABLE:
        now, then = (get(tree, parse_path(key)) for tree in (ours, theirs))
        if now != then:
            yield f"{key} from {then!r} to {now!r}"


def differences(
    experiment: Experiment, arguments: Mapping[str, Any], stored: ModelDescription
) -> Iterator[tuple[str, str]]:
    """Yield (key, what differs) for all that keeps a run of this spec from going on where a checkpoint ended.

    Written or not: the whole spec is what the run does. What `adjustments` names, the number of epochs and where files lie
    may change.

    Args:
        experiment: The spec of the run.
        arguments: Of its network.
        stored: The checkpoint's description.
    """
    ours = facts(describe(experiment, arguments)) | training_facts(experiment)
    theirs = facts(stored) | training_facts(read_stored(stored.spec))
    for key in ours:
        here, there = ours[key], theirs.get(key)
        if key in theirs and here not in (there, plain(get(stored.spec, parse_path(key)))):
            yield key, f"is {there!r} in the checkpoint and {here!r} in the spec"


def training_facts(experiment: Experiment) -> dict[str, Any]:
    """Return what shapes the draw, the loss and the state of the optimiser, by key; only what has an effect."""
    data, train, classify = experiment.dataset.classify, experiment.train, experiment.model.classify
    found: dict[str, Any] = {
        f"{DATA}.batch_size": data.batch_size,
        f"{DATA}.fpratio_sampling": data.fpratio_sampling,
        f"{AUGMENTATION}.augment": data.augmentation_config.augment,
        "model.backbone.freeze_backbone": experiment.model.backbone.freeze_backbone,
        "train.optim.optim": train.optim.optim,
        "train.accumulate_grad_batches": train.accumulate_grad_batches,
        "train.ema_decay": train.ema_decay,
        "train.precision": "16-mixed" if train.precision == "16-mixed" else "not 16-mixed",  # its scaler has a state
    }
    if data.augmentation_config.augment:
        changes = data.augmentation_config.model_dump(mode="json", exclude={"rgb_input_mean", "rgb_input_std"})
        found |= {f"{AUGMENTATION}.{name}": value for name, value in changes.items()}
    if experiment.learnable:
        found["train.classify.cls_weight"] = plain(train.classify.cls_weight)
    else:
        found[f"{CLASSIFY}.train_margin_euclid"] = classify.train_margin_euclid
    if data.num_golden > 1:
        found[f"{CLASSIFY}.golden_gradients"] = classify.golden_gradients
    return found
