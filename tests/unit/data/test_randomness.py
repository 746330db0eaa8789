from __future__ import annotations

import itertools

from changenet.data.randomness import derived_seed, generator


def test_the_numbers_are_the_same_for_ever():
    assert generator("draw", seed=1234, epoch=2, rank=1).integers(10**6, size=3).tolist() == [907771, 594956, 35806]
    assert derived_seed("draw", seed=1234) == 8959438630172627487


def test_each_argument_makes_a_stream_of_its_own():
    streams = {
        tuple(generator(purpose, seed=seed, epoch=epoch, rank=rank, row=row).integers(2**62, size=2))
        for purpose, seed, epoch, rank, row in itertools.product("ab", (-1, 0, 1), (0, 1), (0, 1), (0, 1))
    }
    assert len(streams) == 48
    seeds = {
        derived_seed(purpose, seed=seed, epoch=epoch, rank=rank, batch=batch)
        for purpose, seed, epoch, rank, batch in itertools.product("ab", (-1, 0, 1), (0, 1), (0, 1), (0, 1))
    }
    assert len(seeds) == 48
