"""Checks the arguments of a network: what contradicts what, by the keys of the spec that set them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from changenet.errors import Problem, SpecError


def check_arguments(arguments: Mapping[str, Any], *, side_multiple: int) -> None:
    """Check what can be judged before the encoder is built.

    Args:
        arguments: Of `ChangeNet`, by name, defaults filled in.
        side_multiple: What both sides of the picture must be multiples of.

    Raises:
        SpecError: All contradictions at once.
    """
    height, width = arguments["image_size"]
    problems = []
    if height % side_multiple or width % side_multiple or min(height, width) < 1:
        problems.append(
            Problem(
                f"the picture is {height}x{width} (height x width), but {arguments['backbone']} needs both sides to be "
                f"multiples of {side_multiple}",
                where="dataset.classify.image_height / image_width",
            )
        )
    if not 1 <= arguments["learnable_difference_modules"] <= 4:
        problems.append(
            Problem(
                f"{arguments['learnable_difference_modules']} is not in 1-4",
                where="model.classify.learnable_difference_modules",
            )
        )
    if arguments["num_classes"] < 2:
        problems.append(Problem(f"{arguments['num_classes']} is below 2", where="dataset.classify.num_classes"))
    if arguments["num_golden"] < 1:
        problems.append(Problem(f"{arguments['num_golden']} is below 1", where="dataset.classify.num_golden"))
    elif arguments["num_golden"] > 1 and arguments["difference_module"] == "euclidean":
        problems.append(
            Problem(
                f"{arguments['num_golden']} goldens, but the euclidean comparison takes one",
                where="dataset.classify.num_golden",
                fix="Use difference_module learnable, or one golden.",
            )
        )
    allowed = {
        "difference_module": ("learnable", "euclidean"),
        "head": ("flatten", "pool"),
        "golden_gradients": ("first", "all"),
    }
    problems += [
        Problem(f"{arguments[key]!r} is not one of {', '.join(values)}", where=f"model.classify.{key}")
        for key, values in allowed.items()
        if arguments[key] not in values
    ]
    if problems:
        raise SpecError(problems)


def check_strides(stated: Sequence[int] | None, real: Sequence[int]) -> None:
    """Check the strides that a spec states against those of the encoder.

    Raises:
        SpecError: They differ.
    """
    if stated is not None and tuple(stated) != tuple(real):
        raise SpecError(
            f"{list(stated)} are not the strides of this encoder",
            where="model.decode_head.feature_strides",
            fix=f"Write {list(real)}, or leave it out.",
        )
