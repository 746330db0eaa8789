"""Data loaders of one rank: training batches that can start anywhere in an epoch, and scored batches cut by row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from changenet.data.pairs import PairDataset, PairSource
from changenet.data.sampling import WeightedBatchSampler

Loader = DataLoader[dict[str, Any]]


class TrainingLoader:
    """The training batches of one rank, epoch by epoch.

    Args:
        dataset: The training pairs.
        sampler: This rank's share of each batch.
        workers: Processes that read pictures; 0 reads in this one. They live as long as the loader, so that the goldens
            they keep serve every epoch.
    """

    def __init__(self, *, dataset: PairDataset, sampler: WeightedBatchSampler, workers: int) -> None:
        self._dataset, self._sampler, self._skip = dataset, sampler, 0
        self._loader = _loader(dataset, _Batches(self), workers)

    @property
    def source(self) -> PairSource:
        """The rows and pictures."""
        return self._dataset.source

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        return len(self._sampler)

    def epoch(self, epoch: int, *, skip: int = 0) -> Loader:
        """Return the loader set to an epoch, without its first `skip` batches."""
        self._dataset.set_epoch(epoch)
        self._sampler.set_epoch(epoch)
        self._skip = skip
        return self._loader

    def batches(self) -> Iterator[list[tuple[int, int]]]:
        """Return the (row, place) pairs of each batch that is left of the epoch."""
        return (batch for number, batch in enumerate(self._sampler) if number >= self._skip)

    def batches_left(self) -> int:
        """Return how many batches `batches` gives."""
        return len(self._sampler) - self._skip


class _Batches:
    def __init__(self, owner: TrainingLoader) -> None:
        self._owner = owner

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._owner.batches()

    def __len__(self) -> int:
        return self._owner.batches_left()


def scoring_loader(
    dataset: PairDataset, *, batch_size: int, workers: int, rank: int = 0, world_size: int = 1
) -> Loader:
    """Return this rank's batches of a set in row order; they are cut by row before they are shared out.

    Any number of ranks therefore scores the same batches.
    """
    rows = range(len(dataset))
    batches = [list(rows[start : start + batch_size]) for start in range(0, len(dataset), batch_size)]
    return _loader(dataset, batches[rank::world_size], workers)


def _loader(dataset: PairDataset, batches: Iterable[list[Any]], workers: int) -> Loader:
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread if workers else None,
    )


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
