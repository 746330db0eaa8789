from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changenet.data.sampling import WeightedBatchSampler, epoch_draw, local_batch_size
from changenet.errors import DataError


def flags(rows: int, defects: int) -> np.ndarray:
    is_defect = np.zeros(rows, dtype=bool)
    is_defect[:defects] = True
    return np.random.default_rng(0).permutation(is_defect)


@settings(max_examples=60, deadline=None)
@given(
    world=st.integers(1, 8),
    local=st.integers(2, 5),
    rows=st.integers(2, 240),  # also fewer than a batch has
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 500),
)
def test_the_ranks_together_draw_what_one_rank_draws(world, local, rows, seed, epoch):
    is_defect = flags(rows, 1 + rows // 4)
    options = {"ratio": 0.5, "batch_size": world * local, "seed": seed}

    def batches(rank, size):
        sampler = WeightedBatchSampler(is_defect, **options, rank=rank, world_size=size)
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(drawn) == len(sampler)
        return drawn

    whole = batches(0, 1)
    parts = [batches(rank, world) for rank in range(world)]
    assert [list(chain(*slices)) for slices in zip(*parts, strict=True)] == whole
    draw = epoch_draw(is_defect, ratio=0.5, batch_size=world * local, seed=seed, epoch=epoch)
    assert [[row for row, _ in batch] for batch in whole] == draw.tolist()
    assert [place for batch in whole for _, place in batch] == list(range(draw.size))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(2, 300), batch=st.integers(1, 64), ratio=st.floats(0.01, 10))
def test_a_draw_has_whole_batches_of_rows_that_exist(rows, batch, ratio):
    draw = epoch_draw(flags(rows, 1), ratio=ratio, batch_size=batch, seed=1, epoch=0)
    assert draw.shape == (max(1, rows // batch), batch)
    assert draw.min() >= 0 and draw.max() < rows


@pytest.mark.parametrize("ratio", [0.1, 0.2, 1.0, 3.0])
def test_the_share_of_defects_is_the_documented_one(ratio):
    is_defect = flags(40_000, 60)
    drawn = is_defect[epoch_draw(is_defect, ratio=ratio, batch_size=8, seed=3, epoch=1)]
    assert drawn.mean() == pytest.approx(ratio / (1 + ratio), abs=0.01)


def test_rows_of_a_class_are_drawn_equally_often():
    is_defect = flags(10_000, 10)
    rows = epoch_draw(is_defect, ratio=1.0, batch_size=1, seed=3, epoch=1).ravel()
    often = np.bincount(rows, minlength=10_000)[is_defect]
    assert often.min() > 350 and often.max() < 650  # about 500 each


def test_epochs_and_seeds_differ_and_repeat():
    is_defect = flags(500, 50)

    def draw(seed, epoch):
        return epoch_draw(is_defect, ratio=0.2, batch_size=10, seed=seed, epoch=epoch).tolist()

    assert draw(1, 0) == draw(1, 0)
    assert draw(1, 0) != draw(1, 1)
    assert draw(1, 0) != draw(2, 0)


@pytest.mark.parametrize("defects", [0, 20])
def test_one_class_only_cannot_be_trained(defects):
    kind = "defects" if defects == 0 else "PASS rows"
    wanted = rf"^a/train.csv: the training set has no {kind} \(20 rows\)\. .* dataset.classify.train_dataset.csv_path"
    with pytest.raises(DataError, match=wanted):
        WeightedBatchSampler(flags(20, defects), ratio=0.2, batch_size=4, seed=0, where="a/train.csv")


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_a_set_smaller_than_a_batch_gives_one_whole_batch_to_any_number_of_ranks(world):
    ranks = [
        WeightedBatchSampler(flags(11, 3), ratio=0.2, batch_size=16, seed=0, rank=rank, world_size=world)
        for rank in range(world)
    ]
    assert [[len(batch) for batch in sampler] for sampler in ranks] == [[16 // world]] * world


@pytest.mark.parametrize(("batch", "world"), [(10, 4), (4, 4), (1, 1)])
def test_batches_that_do_not_share_out_are_refused(batch, world):
    with pytest.raises(DataError):
        local_batch_size(batch, world_size=world)
