"""Keeps freed memory in the process: training on a CPU frees and asks for the same large blocks at every step."""

from __future__ import annotations

import contextlib
import ctypes

# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1  # bytes; the largest value that mallopt takes
_AT_ONCE = 64 << 20  # bytes that are asked of the system together


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for its own next step; say whether the C library can do that (glibc can).

    By default glibc maps large blocks anew each time, and the system clears every page of them again.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return all(
            mallopt(*setting) for setting in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _AT_ONCE))
        )
    return False
