from __future__ import annotations

import itertools

import torch

from changenet.data.randomness import derived_seed, generator, torch_generator


def test_the_numbers_are_the_same_for_ever():
    assert generator("draw", seed=1234, epoch=2, rank=1).integers(10**6, size=3).tolist() == [907771, 594956, 35806]
    assert derived_seed("draw", seed=1234) == 8959438630172627487


def test_each_argument_makes_a_stream_of_its_own():
    streams = {
        tuple(generator(purpose, seed=seed, epoch=epoch, rank=rank, row=row).integers(2**62, size=2))
        for purpose, seed, epoch, rank, row in itertools.product("ab", (-1, 0, 1), (0, 1), (0, 1), (0, 1))
    }
    assert len(streams) == 48


def test_torch_follows_the_same_rule():
    first, second = (torch.rand(4, generator=torch_generator("x", seed=1, epoch=3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.rand(4, generator=torch_generator("y", seed=1, epoch=3)))
