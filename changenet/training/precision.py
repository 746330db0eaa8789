"""Number formats of training: the autocast contexts by the names of the spec."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@contextlib.contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute as `32-true`, `bf16-mixed` or `16-mixed` says, as far as half precision pays on the device."""
    if precision == "32-true":
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, dtype=AUTOCAST[precision]))
        if device.type == "cpu":
            stack.enter_context(_GroupsInFullPrecision())
        yield


class _GroupsInFullPrecision(TorchFunctionMode):
    """Runs grouped (depthwise) convolutions in float32.

    PyTorch's CPU library has no fast gradients of them in half precision: with a stride they take up to a hundred times
    as long as in float32, and made a step of `timm/tf_efficientnet_lite0` slower in bfloat16 than in float32.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func is torch.conv2d and args and (args[6] if len(args) > 6 else given.get("groups", 1)) > 1:
            picture, *rest = args
            with torch.autocast("cpu", enabled=False):
                return func(picture.float(), *rest, **given)
        return func(*args, **given)
