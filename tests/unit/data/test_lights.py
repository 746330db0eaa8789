from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from changenet.data.lights import PictureLayout
from changenet.errors import DataError


@settings(max_examples=60, deadline=None)
@given(
    columns=st.integers(1, 4),
    rows=st.integers(1, 4),
    width=st.integers(1, 9),
    height=st.integers(1, 9),
    linear=st.booleans(),
)
def test_every_light_lies_in_its_tile(columns, rows, width, height, linear):
    names = tuple(f"L{index}" for index in range(columns * rows))
    layout = PictureLayout(
        lights=names, concat="linear" if linear else "grid", grid=(columns, rows), width=width, height=height
    )
    pictures = [Image.new("RGB", (5, 7), (index, 2 * index, 100)) for index in range(len(names))]
    whole = layout.combine(pictures)
    assert whole.shape == layout.shape and whole.dtype == np.uint8 and whole.flags.c_contiguous
    for index in range(len(names)):
        row, column = (index, 0) if linear else divmod(index, columns)
        tile = whole[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
        assert (tile == np.array([index, 2 * index, 100])[:, None, None]).all()


def test_four_lights_linear_and_grid_have_the_documented_shapes():
    lights = ("LowAngleLight", "SolderLight", "UniformLight", "WhiteLight")
    assert PictureLayout(lights=lights).shape == (3, 512, 128)
    assert PictureLayout(lights=lights, concat="grid", grid=(2, 2)).shape == (3, 256, 256)


def test_resizing_is_pillow_bilinear_with_antialias(picture):
    original = picture(size=(50, 31))
    layout = PictureLayout(width=20, height=16)
    expected = np.asarray(original.resize((20, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(layout.combine([original]), expected)


def test_layout_survives_json():
    layout = PictureLayout(lights=("a", "b"), concat="grid", grid=(2, 1), width=5, height=4)
    assert PictureLayout.from_dict(json.loads(json.dumps(layout.to_dict()))) == layout


@pytest.mark.parametrize(
    "wrong",
    [
        {"lights": ("a", "b", "c"), "concat": "grid", "grid": (2, 2)},
        {"lights": ("a", "b"), "concat": "grid", "grid": (2, 2)},
        {"lights": ("a", "a")},
        {"lights": ()},
        {"concat": "stack"},
        {"width": 0},
    ],
)
def test_layouts_that_cannot_be_are_refused(wrong):
    with pytest.raises(DataError):
        PictureLayout(**wrong)


def test_one_picture_a_light_is_wanted(picture):
    with pytest.raises(DataError, match="1 picture"):
        PictureLayout(lights=("a", "b")).combine([picture()])
