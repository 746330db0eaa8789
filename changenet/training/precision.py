"""Number formats of training: the autocast contexts by the names of the spec, and which of them a device computes in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
FULL = "32-true"
_ON_CPU = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}


def computes_in(dtype: torch.dtype, device: torch.device) -> bool:
    """Say whether a device has instructions for half precision: a CPU without them takes tens of times as long as in float32."""
    return device.type != "cpu" or bool(getattr(torch.ops.mkldnn, _ON_CPU[dtype])())


def usable_precision(precision: str, device: torch.device) -> str:
    """Return a precision of the spec, or `32-true` where the device has no instructions for it."""
    return precision if precision == FULL or computes_in(AUTOCAST[precision], device) else FULL


@contextlib.contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute as `32-true`, `bf16-mixed` or `16-mixed` says, as far as half precision pays on the device."""
    if precision == FULL:
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, dtype=AUTOCAST[precision]))
        if device.type == "cpu":
            stack.enter_context(_FullPrecisionWhereFaster())
        yield


class _FullPrecisionWhereFaster(TorchFunctionMode):
    """Computes grouped (depthwise) convolutions and attention in float32; what they return is as autocast has it.

    PyTorch's CPU library has no fast gradients of them in half precision: of a depthwise convolution with a stride and of
    attention over few tokens they take many times as long as in float32. `benchmarks/training.py` measures what is left.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        grouped = func is torch.conv2d and (args[6] if len(args) > 6 else given.get("groups", 1)) > 1
        if not grouped and func is not F.scaled_dot_product_attention:
            return func(*args, **given)
        with torch.autocast("cpu", enabled=False):
            exact: Tensor = func(*map(_full, args), **{name: _full(value) for name, value in given.items()})
        return exact.to(torch.get_autocast_dtype("cpu"))


def _full(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
