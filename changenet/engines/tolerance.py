"""How far scores may lie apart, by precision: the one table of every gate and self-test."""

from __future__ import annotations

FP32 = 1e-4
# 16 bits hold three digits; of 8 bits a value between two steps is rounded up by one runtime and down by another.
_SIXTEEN_BITS, _EIGHT_BITS = 0.05, 0.2
_TOLERANCES = {"fp32": FP32, "fp16": _SIXTEEN_BITS, "bf16": _SIXTEEN_BITS}


def tolerance(precision: str) -> float:
    """Return the largest |score difference| / max(1, |score|) allowed: of `fp32`, `fp16`, `int8`, `fp8+int8` and so on.

    >>> tolerance("fp32"), tolerance("fp8+int8")
    (0.0001, 0.2)
    """
    return _TOLERANCES.get(precision, _EIGHT_BITS)
