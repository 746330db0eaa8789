"""TAO's other spellings of keys and values (reference appendix C), each with the modern one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from changenet.spec.keys import section_at
from changenet.spec.tree import Path, Tree, get, leaves, parse_path, put, remove, rename, show_path

OLD_KEYS = {
    "model.decode_head.align_corner": "model.decode_head.align_corners",
    "model.decode_head.decoder_params.embed_dims": "model.decode_head.decoder_params.embed_dim",
    "model.classify.diff_module": "model.classify.difference_module",
    "dataset.classify.input_width": "dataset.classify.image_width",
    "dataset.classify.input_height": "dataset.classify.image_height",
    "train.classify.cls_weights": "train.classify.cls_weight",
    "train.val_interval": "train.validation_interval",
    "train.checkpoint_interval_units": "train.checkpoint_interval_unit",
}
OLD_VALUES: dict[str, dict[str, str]] = {
    "train.precision": {
        "32": "32-true",
        "fp32": "32-true",
        "16": "16-mixed",
        "fp16": "16-mixed",
        "bf16": "bf16-mixed",
        "16-true": "16-mixed",
        "bf16-true": "bf16-mixed",
        "64": "32-true",
        "64-true": "32-true",
        "transformer-engine": "bf16-mixed",
        "transformer-engine-float16": "16-mixed",
    },
    "quantize.backend": {"modelopt": "modelopt.pytorch"},
    "quantize.layers[].weights.dtype": {"float8_e4m3fn": "fp8_e4m3fn", "float8_e5m2": "fp8_e5m2"},
    "quantize.layers[].activations.dtype": {"float8_e4m3fn": "fp8_e4m3fn", "float8_e5m2": "fp8_e5m2"},
}
# TAO's documentation writes these where it means null.
WORDS_FOR_NULL = {"model.backbone.pretrained_backbone_path": ("", "False", "false", "None", False)}

_INTERPOLATED = re.compile(r"(?<=\$\{)([A-Za-z_][\w\[\]]*(?:\.[\w\[\]]+)+)(?=\})")


def modern_path(path: Path) -> Path:
    """Return the modern spelling of a key path.

    >>> modern_path(("train", "val_interval"))
    ('train', 'validation_interval')
    """
    for depth in range(len(path), 0, -1):
        new = OLD_KEYS.get(show_path(path[:depth])) or _switch(path[:depth])
        if new:
            return (*parse_path(new), *path[depth:])
    return path


def _switch(path: Path) -> str | None:
    """Sections switch by `enable` or `enabled`, and TAO's pages mix the two."""
    section = section_at(path[:-1])
    other = {"enable": "enabled", "enabled": "enable"}.get(path[-1])
    if section and other and path[-1] not in section.model_fields and other in section.model_fields:
        return show_path((*path[:-1], other))
    return None


def modernize_keys(tree: Tree, problem: Callable[[Path, str, str], None], changed: Callable[[Path, str], None]) -> None:
    """Give every key of a tree its modern name, in place.

    Args:
        tree: The spec as plain values.
        problem: Called with (path, what, fix) where both spellings are there with different values.
        changed: Called with (old path, message) for every renamed key.
    """
    for path in _key_paths(tree):
        new = modern_path(path)
        if new == path or modern_path(path[:-1]) != path[:-1]:
            continue
        value, present = get(tree, path), get(tree, new, tree)
        if present is tree:
            rename(tree, path, new[-1])
        else:
            if present != value:
                what = f"is {value!r}, but {show_path(new)} is {present!r}: two spellings of one key"
                problem(path, what, f"Keep {show_path(new)} only.")
            remove(tree, path)
        changed(path, f"is an old spelling; write {show_path(new)}")


def _key_paths(tree: Any, path: Path = ()) -> list[Path]:
    if not isinstance(tree, dict):
        return []
    return [
        found for name, value in tree.items() for found in [*_key_paths(value, (*path, str(name))), (*path, str(name))]
    ]


def modern_interpolation(text: str) -> str:
    """Give the key paths inside `${…}` their modern names.

    >>> modern_interpolation("${dataset.classify.input_width}")
    '${dataset.classify.image_width}'
    """
    return _INTERPOLATED.sub(lambda found: show_path(modern_path(parse_path(found[1]))), text)


def modernize_values(tree: Tree, changed: Callable[[Path, str], None]) -> None:
    """Give old values of known keys their modern spelling, in place, and turn TAO's words for null into null."""
    for path, value in list(leaves(tree)):
        if not isinstance(value, str | int):
            continue
        key = ".".join(path)
        key = re.sub(r"\.\d+", "[]", key)
        if value in WORDS_FOR_NULL.get(key, ()):
            put(tree, path, None)
        elif not isinstance(value, bool) and (new := OLD_VALUES.get(key, {}).get(str(value))):
            put(tree, path, new)
            changed(path, f"{value!r} is read as {new!r}; write {new!r}")
