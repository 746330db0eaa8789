"""The scores that an interrupted run leaves in its folder, from which the same command goes on.

Ray Data's own checkpoints note which rows were written, by their numbers, where every node can write; here the results
themselves are wanted, in whole batches, and only the driver needs to reach the folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from changenet import storage
from changenet.data.pairs import PairSource

Columns: TypeAlias = dict[str, NDArray[Any]]

SECONDS = 1.0  # between two files at least: a write to an object store takes a tenth of that
_OURS = re.compile(r"\.?[0-9a-f]{32}-[0-9a-f]{32}\.npz")  # with a dot before it: a write that was cut short
_KEPT = ("row", "score", "prediction", "stamp")


class ScoreParts:
    """Results on their way, in small files; each is whole or absent.

    A batch with a row that could not be scored is not kept, nor one whose pictures are others by now: both are done again.

    Args:
        folder: Path or URI of a folder for them.
        batch_size: Pairs a batch.
        depends_on: All else that a score or a decision depends on, as JSON values. It is hashed, and only that hash is
            written; parts with another one are left alone.
    """

    def __init__(self, folder: str, *, batch_size: int, depends_on: Mapping[str, Any]) -> None:
        self._folder, self._batch_size = folder, batch_size
        facts = json.dumps([batch_size, depends_on], sort_keys=True)
        self._prefix = hashlib.sha256(facts.encode()).hexdigest()[:32]
        self._waiting: list[Columns] = []
        self._last = time.monotonic()

    def load(self, source: PairSource) -> Columns:
        """Return `row`, `score` and `prediction` of every row that need not be scored again.

        Args:
            source: The rows, whose pictures must be what they were.
        """
        parts = []
        for name in storage.names_inside(self._folder):
            if name.startswith(self._prefix):
                with np.load(io.BytesIO(storage.read_bytes(storage.join(self._folder, name)))) as stored:
                    parts.append({column: stored[column] for column in _KEPT})
        columns = _joined(parts)
        now = np.fromiter((source.stamp(row) for row in columns["row"].tolist()), dtype=np.int64)
        return self._whole_batches(columns, columns["stamp"] == now)

    def add(self, block: Columns) -> None:
        """Keep results of whole batches: `row`, `score`, `prediction`, `error` and `stamp` (of `PairSource.stamp`)."""
        self._waiting.append(self._whole_batches({name: block[name] for name in _KEPT}, ~np.isnan(block["score"])))
        if time.monotonic() - self._last < SECONDS:
            return
        columns, self._waiting = _joined(self._waiting), []
        columns["prediction"] = columns["prediction"].astype(np.str_)  # objects would need a pickle
        with storage.atomic_write(storage.join(self._folder, f"{self._prefix}-{uuid.uuid4().hex}.npz")) as file:
            np.savez_compressed(file, allow_pickle=False, **columns)
        self._last = time.monotonic()

    def _whole_batches(self, columns: Columns, good: NDArray[np.bool_]) -> Columns:
        batches = columns["row"] // self._batch_size
        whole = ~np.isin(batches, batches[~good])
        return {name: column[whole] for name, column in columns.items()}


def forget_parts(folder: str) -> None:
    """Delete the parts of all runs in a folder, and the folder when nothing else is in it."""
    for name in storage.names_inside(folder):
        if _OURS.match(name):
            storage.remove(storage.join(folder, name))
    storage.remove_empty_folder(folder)


def _joined(parts: list[Columns]) -> Columns:
    nothing: Columns = {name: np.zeros(0, np.str_ if name == "prediction" else np.int64) for name in _KEPT}
    return {name: np.concatenate([part[name] for part in [nothing, *parts]]) for name in _KEPT}
