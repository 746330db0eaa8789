"""What this machine's processor can do, as far as it matters to the numbers of an engine."""

from __future__ import annotations

from functools import cache
from pathlib import Path

CPU_FLAGS = Path("/proc/cpuinfo")
_VNNI = {"avx_vnni", "avx512_vnni"}


@cache
def has_vnni(source: Path = CPU_FLAGS) -> bool:
    """Say whether the processor adds products of 8 bits in 32 (VNNI); False where the system (none but Linux) does not tell.

    Args:
        source: Linux's description of the processors.
    """
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return not _VNNI.isdisjoint(flags)
