"""Which rows an epoch trains on: one global weighted draw, split over the ranks batch by batch.

A defect is drawn `ratio` times as often as a PASS, all defects together, so the expected share of defects is
`ratio / (1 + ratio)` whatever the set holds (TAO's `fpratio_sampling`, with replacement).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from changenet.data.randomness import generator
from changenet.errors import DataError


def epoch_draw(
    is_defect: NDArray[np.bool_], *, ratio: float, batch_size: int, seed: int, epoch: int, where: str = ""
) -> NDArray[np.int64]:
    """Draw as many rows as the set has, one batch at least, with replacement, and cut them to whole batches.

    Drawing the class first and then a row of it is the weighted draw of TAO (weight 1 for a PASS and
    `n_pass / n_fail * ratio` for a defect) without a weight for every row.

    Args:
        is_defect: A row each.
        ratio: Defects drawn per PASS drawn, above 0.
        batch_size: Of all ranks together.
        seed: Of the run.
        epoch: From 0.
        where: What the set is called in messages: its CSV file.

    Returns:
        Row numbers, (batches, batch_size): a function of the arguments alone.

    Raises:
        DataError: The set has no defects, or nothing else.

    >>> epoch_draw(np.array([True, False, False, True, False]), ratio=1.0, batch_size=2, seed=0, epoch=0).shape
    (2, 2)
    """
    rows = len(is_defect)
    defects, passes = np.flatnonzero(is_defect), np.flatnonzero(~np.asarray(is_defect, dtype=bool))
    if not len(defects) or not len(passes):
        kind = "defects" if not len(defects) else "PASS rows"
        fix = "Training needs rows of both kinds: name another file as dataset.classify.train_dataset.csv_path."
        raise DataError(f"the training set has no {kind} ({rows} rows)", where=where, fix=fix)
    if ratio <= 0:
        raise DataError(
            f"is {ratio}", where="dataset.classify.fpratio_sampling", fix="Use a number above 0, for example 0.2."
        )
    random = generator("epoch draw", seed=seed, epoch=epoch)
    draws = max(rows, batch_size)  # whatever the number of workers: a smaller batch would have to follow it
    draw_defect = random.random(draws) < ratio / (1.0 + ratio)
    drawn = passes[random.integers(len(passes), size=draws)]
    drawn[draw_defect] = defects[random.integers(len(defects), size=int(draw_defect.sum()))]
    return drawn[: draws // batch_size * batch_size].reshape(-1, batch_size).astype(np.int64)


def local_batch_size(batch_size: int, *, world_size: int) -> int:
    """Return a worker's share of a batch.

    Raises:
        DataError: The batch does not divide by the workers, or leaves one less than 2 rows (batch normalisation needs two).
    """
    if batch_size % world_size:
        what = f"batch_size {batch_size} does not divide by {world_size} workers"
        raise DataError(what, fix="batch_size counts all workers together: use a multiple of their number.")
    if batch_size < 2 * world_size:
        what = f"{batch_size} row(s) a batch for {world_size} worker(s): each needs at least 2"
        raise DataError(what, fix="Use a larger batch_size or fewer workers.")
    return batch_size // world_size


class WeightedBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields this rank's slice of every batch of `epoch_draw` as (row, place) pairs.

    `place` is the position in the global draw. `PairDataset` takes such a pair as an index, so that a defect drawn
    many times in one epoch is augmented differently each time, and alike on any number of ranks.

    Args:
        is_defect: A row each.
        ratio: Defects drawn per PASS drawn.
        batch_size: Of all ranks together.
        seed: Of the run.
        rank: Of this worker.
        world_size: Number of workers.
        where: As in `epoch_draw`.

    Raises:
        DataError: As `local_batch_size` and `epoch_draw`.
    """

    def __init__(
        self,
        is_defect: NDArray[np.bool_],
        *,
        ratio: float,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        where: str = "",
    ) -> None:
        self._where = where
        self._is_defect = np.asarray(is_defect, dtype=bool)
        self._batch_size, self._local_size = batch_size, local_batch_size(batch_size, world_size=world_size)
        self._ratio, self._seed, self._rank, self._epoch = ratio, seed, rank, 0
        self._draw()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Batches an epoch, the same on every rank."""
        return max(1, len(self._is_defect) // self._batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        start = self._rank * self._local_size
        for batch, rows in enumerate(self._draw()):
            place = batch * self._batch_size + start
            mine = rows[start : start + self._local_size].tolist()
            yield [(row, place + offset) for offset, row in enumerate(mine)]

    def _draw(self) -> NDArray[np.int64]:
        return epoch_draw(
            self._is_defect,
            ratio=self._ratio,
            batch_size=self._batch_size,
            seed=self._seed,
            epoch=self._epoch,
            where=self._where,
        )
