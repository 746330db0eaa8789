"""The keys of the spec as data: their paths, what they allow, and which one a misspelt key may mean."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from changenet.spec.experiment import Experiment
from changenet.spec.section import Section, section_of

DATA = "dataset.classify"
CLASSIFY = "model.classify"
AUGMENTATION = f"{DATA}.augmentation_config"
_LIMITS = {"ge": "{} or more", "gt": "above {}", "le": "at most {}", "lt": "below {}", "pattern": ""}


@dataclass(frozen=True)
class Key:
    """One key that holds a value.

    Args:
        path: Dotted; `[]` marks a list of sections: `quantize.layers[].module_name`.
        field: The pydantic field.
    """

    path: str
    field: FieldInfo

    @property
    def default(self) -> Any:
        """The default as plain values (None where there is none)."""
        return plain(None if self.field.is_required() else self.field.get_default(call_default_factory=True))

    @property
    def allowed(self) -> str:
        """What may be written, in words."""
        return allowed(self.field)


def plain(value: Any) -> Any:
    """Turn tuples into lists and sections and frozen mappings into dictionaries."""
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def walk(section: type[Section] = Experiment, prefix: str = "") -> Iterator[Key]:
    """Yield every key that holds a value, in the order of the spec."""
    for name, field in section.model_fields.items():
        path = f"{prefix}{name}"
        inner = section_of(field.annotation)
        if inner is None:
            yield Key(path, field)
        else:
            yield from walk(inner, f"{path}[]." if is_list(field) else f"{path}.")


@cache
def all_keys() -> dict[str, Key]:
    """Return every key that holds a value, by path."""
    return {key.path: key for key in walk()}


def is_list(field: FieldInfo) -> bool:
    """Say whether the field is a list (of sections)."""
    return get_origin(field.annotation) is tuple


def section_at(path: tuple[str, ...]) -> type[Section] | None:
    """Return the section class at a path (list indices as `0`), or None where there is a value or nothing."""
    section: type[Section] = Experiment
    for part in path:
        if part.isdigit():
            continue
        field = section.model_fields.get(part)
        found = section_of(field.annotation) if field else None
        if found is None:
            return None
        section = found
    return section


def field_at(path: tuple[str, ...]) -> FieldInfo | None:
    """Return the field at a path, or None."""
    section = section_at(path[:-1])
    return section.model_fields.get(path[-1]) if section and path else None


def nearest(path: tuple[str, ...]) -> str | None:
    """Return the key or section that an unknown path most likely means.

    >>> nearest(("train", "num_epoch"))
    'train.num_epochs'
    >>> nearest(("train", "lr"))
    'train.optim.lr'
    """
    *parents, name = path
    section = section_at(tuple(parents))
    siblings = difflib.get_close_matches(name, list(section.model_fields) if section else [], n=1)
    if siblings:
        return ".".join([*parents, *siblings])
    by_name: dict[str, list[str]] = {}
    for known in all_keys():
        by_name.setdefault(known.rsplit(".", 1)[-1], []).append(known)
    for close in difflib.get_close_matches(name, by_name, n=1, cutoff=0.8):
        return max(by_name[close], key=lambda known: _shared(known.split("."), parents))
    return None


def _shared(known: list[str], parents: list[str]) -> int:
    return next((i for i, (a, b) in enumerate(zip(known, parents, strict=False)) if a != b), len(parents))


def without_defaults(values: Mapping[str, Any], section: type[Section] = Experiment) -> dict[str, Any]:
    """Drop every value that equals its default, so that only what was chosen stays."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        field = section.model_fields.get(name)
        inner = section_of(field.annotation) if field and not is_list(field) else None
        if inner is not None and isinstance(value, Mapping):
            if chosen := without_defaults(value, inner):
                kept[name] = chosen
        elif field is None or value != Key(name, field).default:
            kept[name] = value
    return kept


def allowed(field: FieldInfo) -> str:
    """Say in words what a field allows.

    >>> allowed(all_keys()["train.num_epochs"].field)
    'whole number, 1 or more'
    """
    return _words(field.annotation, tuple(field.metadata))


def _words(annotation: Any, limits: tuple[Any, ...]) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(parts[0], (*annotation.__metadata__, *limits))
    if origin in (Union, types.UnionType):
        words = ["null" if part is type(None) else _words(part, limits) for part in parts]
        return "; ".join(words) if len(words) > 2 or ", " in words[0] else " or ".join(words)
    if origin is Literal:
        return ", ".join(map(str, parts[:-1])) + f" or {parts[-1]}" if len(parts) > 1 else str(parts[0])
    if origin is tuple:
        return _list_words(parts, limits)
    if origin is dict:
        return f"mapping of names to {_words(parts[1], ())}"
    if section_of(annotation):
        return "a section: a mapping of keys"
    names = {
        int: "whole number",
        float: "number",
        bool: "true or false",
        str: "text",
        SecretStr: "text in quotes",
        Any: "anything",
    }
    return ", ".join([names[annotation], *_range_words(limits)])


def _list_words(parts: tuple[Any, ...], limits: tuple[Any, ...]) -> str:
    sizes = {type(limit): limit for limit in _flat(limits)}
    least, most = sizes.get(annotated_types.MinLen), sizes.get(annotated_types.MaxLen)
    if parts[-1] is not Ellipsis:
        count = f"list of {len(parts)}"
    elif least:
        count = f"list of {least.min_length}" + ("" if most else " or more")
    else:
        count = "list"
    return f"{count}, each {_words(parts[0], ())}"


def _flat(limits: tuple[Any, ...]) -> Iterator[Any]:
    for limit in limits:
        if isinstance(limit, FieldInfo):
            yield from limit.metadata
        else:
            yield limit


def _range_words(limits: tuple[Any, ...]) -> Iterator[str]:
    found = {name: getattr(limit, name) for limit in _flat(limits) for name in _LIMITS if hasattr(limit, name)}
    if found.get("pattern"):
        yield f"matching {found['pattern']}"
    if "ge" in found and "le" in found:
        yield f"{found['ge']} to {found['le']}"
        return
    for name, words in _LIMITS.items():
        if name in found and words:
            yield words.format(found[name])
