from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from changenet.data.augment import PairAugmentation, crop_box, shift
from changenet.data.randomness import generator
from changenet.errors import DataError

EVERYTHING = {
    "hflip_probability": 0.5,
    "vflip_probability": 0.5,
    "rotate_probability": 0.5,
    "angle_list": (90, 180, 270, 15),
    "crop": True,
    "blur": True,
    "color_probability": 0.5,
}


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def augmented(test, goldens, seed=0, **options):
    return PairAugmentation(**options)(test, goldens, generator("augment", seed=seed))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    lights=st.integers(1, 3),
    goldens=st.integers(1, 3),
    height=st.integers(2, 20),
    width=st.integers(2, 20),
)
def test_test_goldens_and_lights_get_the_same_transform(seed, lights, goldens, height, width):
    one = noise(seed, 3, height, width)
    test, copies = one.expand(lights, 3, height, width), one.expand(goldens, lights, 3, height, width)
    before = one.clone()
    test_after, goldens_after = augmented(test, copies, seed, **EVERYTHING)
    assert test_after.shape == test.shape and goldens_after.shape == copies.shape
    assert test_after.dtype == goldens_after.dtype == torch.uint8
    assert (test_after == test_after[:1]).all() and (goldens_after == test_after[0]).all()
    assert torch.equal(one, before)


def test_nothing_switched_on_changes_nothing():
    test, goldens = noise(0, 2, 3, 8, 6), noise(1, 2, 2, 3, 8, 6)
    test_after, goldens_after = augmented(test, goldens)
    assert torch.equal(test_after, test) and torch.equal(goldens_after, goldens)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"hflip_probability": 1.0}, lambda x: x.flip(-1)),
        ({"vflip_probability": 1.0}, lambda x: x.flip(-2)),
        ({"hflip_probability": 1.0, "vflip_probability": 1.0}, lambda x: x.flip(-1, -2)),
        ({"rotate_probability": 1.0, "angle_list": [0]}, lambda x: x),
        ({"rotate_probability": 1.0, "angle_list": [90]}, lambda x: torch.rot90(x, 1, (-2, -1))),
        ({"rotate_probability": 1.0, "angle_list": [180]}, lambda x: x.flip(-1, -2)),
        ({"rotate_probability": 1.0, "angle_list": [270]}, lambda x: torch.rot90(x, 3, (-2, -1))),
        ({"rotate_probability": 1.0, "angle_list": [-90]}, lambda x: torch.rot90(x, 3, (-2, -1))),
    ],
)
def test_flips_and_right_angles_are_exact(options, expected):
    test, goldens = noise(0, 2, 3, 9, 9), noise(1, 1, 2, 3, 9, 9)
    test_after, goldens_after = augmented(test, goldens, **options)
    assert torch.equal(test_after, expected(test)) and torch.equal(goldens_after, expected(goldens))


def test_a_right_angle_keeps_the_size_and_blackens_the_corners():
    test = noise(0, 1, 3, 6, 10) // 2 + 1
    after, _ = augmented(test, test[None], rotate_probability=1.0, angle_list=[90])
    turned = torch.rot90(test, 1, (-2, -1))  # (1, 3, 10, 6)
    assert torch.equal(after[..., 2:8], turned[..., 2:8, :])
    assert not after[..., :2].any() and not after[..., 8:].any()


@settings(max_examples=100, deadline=None)
@given(height=st.integers(1, 200), width=st.integers(1, 200), seed=st.integers(0, 1000))
def test_crops_are_squares_inside_the_picture(height, width, seed):
    top, left, tall, wide = crop_box(height, width, generator("crop", seed=seed))
    assert tall == wide and 0 <= top <= height - tall and 0 <= left <= width - wide
    if height == width > 20:
        assert 0.78 <= tall * wide / (height * width) <= 1.0


def test_every_angle_of_any_list_is_used():
    marker = torch.zeros(1, 3, 9, 9, dtype=torch.uint8)
    marker[..., 0, 2] = 255
    augmentation = PairAugmentation(rotate_probability=1.0, angle_list=[0, 90, 180, 270, 45])
    random = generator("angles", seed=0)
    results = {augmentation(marker, marker[None], random)[0].numpy().tobytes() for _ in range(100)}
    assert len(results) == 5


def test_the_colour_probability_is_the_documented_one():
    test = noise(0, 1, 3, 4, 4)
    augmentation, random = PairAugmentation(color_probability=0.2), generator("colour", seed=0)
    changed = sum(not torch.equal(augmentation(test, test[None], random)[0], test) for _ in range(400))
    assert 50 < changed < 115


def test_crop_and_blur_apply_to_every_pair():
    test = noise(0, 1, 3, 96, 96)
    for option in ("crop", "blur"):
        augmentation, random = PairAugmentation(**{option: True}), generator(option, seed=0)
        changed = sum(not torch.equal(augmentation(test, test[None], random)[0], test) for _ in range(50))
        assert changed >= 30  # a blur of almost nothing, a crop of almost all, change nothing


def test_jitter_of_strength_zero_changes_nothing():
    test = noise(0, 1, 3, 8, 8)
    after, _ = augmented(test, test[None], color_probability=1.0, brightness=0, contrast=0, saturation=0, hue=0)
    assert torch.equal(after, test)


def test_shift_moves_the_goldens_and_repeats_their_edge():
    rows = torch.arange(5, dtype=torch.uint8)[:, None].expand(5, 4)
    assert shift(rows, 2, 0)[:, 0].tolist() == [0, 0, 0, 1, 2]
    assert shift(rows, -1, 3)[:, 0].tolist() == [1, 2, 3, 4, 4]
    assert shift(rows, 100, -100)[:, 0].tolist() == [0] * 5


def test_random_shift_leaves_the_test_picture_and_keeps_lights_together():
    test = noise(0, 2, 3, 16, 16)
    goldens = test[:1].expand(3, 2, 3, 16, 16)
    moves = set()
    for seed in range(30):
        test_after, goldens_after = augmented(test, goldens, seed, shift_probability=1.0, shift_max_pixels=2)
        assert torch.equal(test_after, test)
        for golden in goldens_after:
            assert torch.equal(golden[0], golden[1])
            where = [(d, r) for d in range(-2, 3) for r in range(-2, 3) if torch.equal(golden[0], shift(test[0], d, r))]
            assert len(where) == 1
            moves.update(where)
    assert len(moves) == 25


@pytest.mark.parametrize(
    "wrong",
    [
        {"hflip_probability": 1.5},
        {"rotate_probability": 0.5, "angle_list": []},
        {"hue": 0.6},
        {"brightness": -0.1},
        {"shift_max_pixels": -1},
        {"color_probability": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(DataError):
        PairAugmentation(**wrong)
