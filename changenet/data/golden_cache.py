"""Decoded goldens, kept in memory because the same one serves many tests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from changenet.data.lights import Pixels

Files: TypeAlias = tuple[str, ...]


class GoldenCache:
    """Decoded goldens by their files, at most `limit` bytes: the one unused for longest goes first."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[Files, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, files: Files, decode: Callable[[Files], Pixels]) -> Pixels:
        """Return `decode(files)`, from memory when it is there."""
        with self._lock:
            if files in self._kept:
                self._kept.move_to_end(files)
                return self._kept[files]
        pixels = decode(files)
        pixels.flags.writeable = False
        with self._lock:
            if pixels.nbytes <= self._limit and files not in self._kept:
                self._kept[files] = pixels
                self._size += pixels.nbytes
                while self._size > self._limit:
                    self._size -= self._kept.popitem(last=False)[1].nbytes
        return pixels

    @property
    def size(self) -> int:
        """Bytes in use."""
        return self._size

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self._limit}  # another process starts empty

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
