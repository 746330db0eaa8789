"""An old spec in modern form: every change has a comment, and the new file means what the old one meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from changenet.spec import encoders
from changenet.spec.cross_checks import TAO_NUM_INPUT
from changenet.spec.effects import no_effect, without_effect
from changenet.spec.experiment import Experiment
from changenet.spec.keys import AUGMENTATION, plain
from changenet.spec.loading import SECRET, Reading, build, read_tree
from changenet.spec.rendering import flow, lines
from changenet.spec.spellings import modern_interpolation, modern_path, modernize_values
from changenet.spec.tree import Path, Tree, get, leaves, parse_path, put, remove, show_path
from changenet.storage import read_text

# TAO 7.3's defaults (reference 2) where ours are others: a key that is left out does not mean the same in both programs.
TAO_DEFAULTS: dict[str, Any] = {
    "model.decode_head.use_summary_token": False,
    "model.classify.eval_margin": 2.0,
    "model.classify.embed_dec": 5,
    "model.classify.difference_module": "euclidean",
    "dataset.classify.batch_size": 8,
    "dataset.classify.image_width": 224,
    "dataset.classify.image_height": 224,
    "train.classify.cls_weight": [1.0, 10.0],
    "train.tensorboard.enabled": False,
    "train.optim.lr": 0.0001,
    "train.optim.weight_decay": 0.01,
}


def modern_form(file: str) -> str:
    """Return an old spec in modern form, with a comment for every change.

    It loads as the same experiment. Warnings remain for what has to stay, such as what this version does not do yet.
    Interpolation stays as it is written. The old file's own comments are not carried over.

    Raises:
        SpecError: The old spec is wrong.
    """
    reading = Reading(file)
    page = _Page(read_tree(reading))
    experiment = build(Reading(file), read_tree(Reading(file)))
    page.unset(file)
    page.respell(reading)
    page.drop_secret()
    page.drop_what_has_no_effect(experiment)
    page.explain(experiment)
    page.complete(experiment)
    head = [
        f"# {file} in modern form. Every change has a comment; keys that are left out are named here.",
        *(f"# {line}" for line in page.removed),
    ]
    return "\n".join([*head, *lines(page.tree, lambda path: page.comments.get(path, []), above=True)]) + "\n"


@dataclass
class _Page:
    """The spec on its way into modern form.

    Args:
        tree: Plain values by modern names.
        comments: On keys that stay.
        removed: On keys that do not.
    """

    tree: Tree
    comments: dict[Path, list[str]] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)

    def comment(self, path: Path, text: str) -> None:
        """Put a comment above a key; what lies inside a list has its comment above the list."""
        shown = next((path[:depth] for depth, part in enumerate(path) if part.isdigit()), path)
        self.comments.setdefault(shown, []).append(text if shown == path else f"{show_path(path)}: {text}")

    def drop(self, path: Path) -> None:
        """Remove a key, and the sections that are empty without it."""
        remove(self.tree, path)
        while len(path) > 1 and get(self.tree, path := path[:-1]) == {}:
            remove(self.tree, path)

    def unset(self, file: str) -> None:
        """Name what was `???`: TAO's programs write it for a file that nobody has given yet."""
        content = OmegaConf.to_container(OmegaConf.create(read_text(file)), resolve=False)
        gone = [show_path(modern_path(path)) for path, value in leaves(content) if value == "???"]
        if gone:
            self.removed.append(f"Left out: {', '.join(gone)}: not given (???).")

    def respell(self, reading: Reading) -> None:
        """Give values their modern spelling, and say what keys and values were called."""
        before = [(path, value) for path, value in leaves(self.tree) if isinstance(value, str | int)]
        for path, value in before:
            if isinstance(value, str):
                put(self.tree, path, modern_interpolation(value))
        modernize_values(self.tree, lambda *_: None)
        for path, _ in reading.changed:
            self.comment(modern_path(path), f"was {show_path(path)}")
        for path, value in before:
            if (now := get(self.tree, path)) != value:
                self.comment(path, f"was {flow(value)}{', which means null' if now is None else ''}")

    def drop_secret(self) -> None:
        """Leave out a passphrase in clear text."""
        if isinstance(key := self.tree.get(SECRET), str) and "${" not in key:
            del self.tree[SECRET]
            self.removed.append(f"Left out: {SECRET}: it stood here in clear text. Write {SECRET}: ${{oc.env:NAME}}.")

    def drop_what_has_no_effect(self, experiment: Experiment) -> None:
        """Leave out what changes nothing, and write what is meant where a value is read differently."""
        for notice in without_effect(experiment):
            if not notice.remedy:
                self.comment(parse_path(notice.path), notice.message)
            gone = [key for key, value in notice.remedy.items() if value is None]
            if gone:
                self.removed.append(f"Left out: {', '.join(gone)}. {notice.path}: {notice.message}")
            for key, value in notice.remedy.items():
                path = parse_path(key)
                if value is None:
                    self.drop(path)
                else:
                    put(self.tree, path, value)
                    self.comment(path, notice.message)

    def explain(self, experiment: Experiment) -> None:
        """Say where a value stays and TAO does something else with it."""
        for key, meaning in MEANINGS.items():
            path = parse_path(key)
            if get(self.tree, path) is not None and path not in self.comments and (text := meaning(experiment)):
                self.comment(path, text)

    def complete(self, experiment: Experiment) -> None:
        """Write the defaults that TAO's users may expect to be others, in the sections that the spec has."""
        values = plain(experiment.model_dump(mode="json", exclude={SECRET}))
        width, height = experiment.light_size
        put(values, parse_path("dataset.classify.image_width"), width)
        put(values, parse_path("dataset.classify.image_height"), height)
        for key, theirs in TAO_DEFAULTS.items():
            path = parse_path(key)
            ours, missing = get(values, path), get(self.tree, path, self.tree) is self.tree
            section = path[:2] if path[0] == "dataset" else path[:1]
            if missing and isinstance(get(self.tree, section), dict) and ours != theirs and _matters(experiment, key):
                put(self.tree, path, ours)
                self.comment(path, f"was not written: {flow(ours)} is the default here, {flow(theirs)} in TAO 7.3")


def _matters(experiment: Experiment, key: str) -> bool:
    if key.endswith("use_summary_token"):
        return encoders.family(experiment.model.backbone.type) == "vit"
    return no_effect(key, experiment) is None


def _batch_size(experiment: Experiment) -> str:
    gpus = experiment.num_gpus("train") * experiment.train.num_nodes
    return f"pairs of all workers together; TAO counts those of each of its {gpus} GPUs" if gpus > 1 else ""


def _color_probability(experiment: Experiment) -> str:
    config = experiment.dataset.classify.augmentation_config
    value = config.random_color.color_probability
    active = config.augment and config.random_color.enable and value != 0.5
    return f"the probability itself; TAO changes colours with 1 - {value:g}" if active else ""


def _angles(experiment: Experiment) -> str:
    config = experiment.dataset.classify.augmentation_config
    many = config.augment and config.random_rotate.enable and len(config.random_rotate.angle_list) > 3
    return "all are used; TAO uses the first three" if many else ""


def _statistics(experiment: Experiment) -> str:
    return "" if any(experiment.statistics) else "ImageNet's: with C-RADIO they mean the encoder's own, as in TAO 7.3"


def _deviation(experiment: Experiment) -> str:
    mean = experiment.dataset.classify.augmentation_config.rgb_input_mean
    return _statistics(experiment) if mean is None else ""  # else the mean says it


def _num_input(experiment: Experiment) -> str:
    data = experiment.dataset.classify
    unset = data.num_input == TAO_NUM_INPUT and data.input_map is None
    return "TAO's default; there is one light, because input_map is null" if unset else ""


# Values that stay as they are though TAO does something else with them (reference 9.1).
MEANINGS: dict[str, Callable[[Experiment], str]] = {
    "model.classify.eval_margin": lambda _: "the threshold, as written; without it one is fitted on validation",
    "dataset.classify.batch_size": _batch_size,
    "dataset.classify.num_input": _num_input,
    "dataset.classify.num_golden": lambda e: (
        "outside training the first by name; TAO draws them at random" if e.dataset.classify.num_golden > 1 else ""
    ),
    f"{AUGMENTATION}.rgb_input_mean": _statistics,
    f"{AUGMENTATION}.rgb_input_std": _deviation,
    f"{AUGMENTATION}.random_color.color_probability": _color_probability,
    f"{AUGMENTATION}.random_rotate.angle_list": _angles,
    "train.classify.cls_weight": lambda e: "a checkpoint's never replace it; in TAO they do" if e.learnable else "",
    "gen_trt_engine.tensorrt.workspace_size": lambda _: "MB, as documented; TAO reads GiB",
}
