"""Goldens that were encoded before, kept by the bytes they take: in a line one golden is compared a thousand times."""

from __future__ import annotations

import threading
from collections import OrderedDict

from changenet.engines import Arrays

Key = tuple[str, ...]
"""What computes, and the SHA-256 of each light's encoded picture, in the model's order of lights."""


class GoldenCache:
    """Golden halves of all models of a replica; the one used longest ago goes first. Safe to use from several threads.

    Args:
        limit: Bytes to keep at most; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[Key, Arrays] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self._size

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key) -> Arrays | None:
        """Return the halves kept under `key`, and count that as a use."""
        with self._lock:
            halves = self._kept.get(key)
            if halves is not None:
                self._kept.move_to_end(key)
            return halves

    def put(self, key: Key, halves: Arrays) -> None:
        """Keep the halves; what is larger than the whole cache is not kept."""
        size = bytes_of(halves)
        with self._lock:
            self._drop(key)
            if size > self.limit:
                return
            while self._size + size > self.limit:
                self._drop(next(iter(self._kept)))
            self._kept[key] = halves
            self._size += size

    def _drop(self, key: Key) -> None:
        self._size -= bytes_of(self._kept.pop(key, ()))


def bytes_of(halves: Arrays) -> int:
    """Return what the halves of a golden take."""
    return sum(half.nbytes for half in halves)
