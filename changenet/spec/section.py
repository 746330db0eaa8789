"""What every section of the spec has in common: frozen, no unknown keys, and value types that refuse a wrong kind."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class FrozenMapping(dict[str, Any]):
    """A dictionary that keeps what it was made with: the spec is frozen after loading."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the spec is frozen after loading")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[FrozenMapping], tuple[dict[str, Any]]]:
        return FrozenMapping, (dict(self),)


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


def _frozen(value: Mapping[str, Any]) -> FrozenMapping:
    return FrozenMapping(value)


# Environment variables arrive as text, so text that reads as a number is one; true is never 1.
Integer = Annotated[int, BeforeValidator(_no_boolean)]
Number = Annotated[float, BeforeValidator(_no_boolean), Field(allow_inf_nan=False)]
Positive = Annotated[Integer, Field(ge=1)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
BatchSize = Literal[-1] | Positive
Lights = Annotated[dict[str, Integer], AfterValidator(_frozen)]
Options = Annotated[dict[str, Any], AfterValidator(_frozen)]
Resources = Annotated[dict[str, Annotated[Number, Field(ge=0)]], AfterValidator(_frozen)]


class Section(BaseModel):
    """A mapping of the spec file: its fields are the keys it may hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    null_is_unset: ClassVar[frozenset[str]] = frozenset()
    """Keys whose TAO default is null: null leaves our default in place. (An empty section is always unset.)"""

    @model_validator(mode="before")
    @classmethod
    def _drop_unset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {name: value for name, value in values.items() if not cls._is_unset(name, value)}

    @classmethod
    def _is_unset(cls, name: str, value: Any) -> bool:
        field = cls.model_fields.get(name)
        if field is None or value not in (None, ""):
            return False
        if value == "":  # TAO's specs write it for files that are not given.
            return not field.is_required() and field.default is None
        return name in cls.null_is_unset or section_of(field.annotation) is not None


def section_of(annotation: Any) -> type[Section] | None:
    """Return the section class that a field holds (alone or in a tuple or an optional), if it does."""
    if get_origin(annotation) in (Union, types.UnionType, tuple, Annotated):
        return next((found for part in get_args(annotation) if (found := section_of(part))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None
