import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changenet.synthetic.canvas import HEIGHT, SIDE, Canvas, Frame
from changenet.synthetic.lettering import GLYPHS, text_segments, text_width
from changenet.synthetic.shapes import box, disc, dome, repeat, rounded_box, strokes

CENTRED = Frame(SIDE / 2, SIDE / 2)
places = st.floats(-40, 100)
angles = st.floats(-7, 7)


@settings(max_examples=50, deadline=None)
@given(x=places, y=places, angle=angles, u=places, v=places)
def test_frame_turns_local_points_into_board_points_and_back(x, y, angle, u, v):
    frame = Frame(x, y, angle)
    assert frame.local(*frame.point(u, v)) == pytest.approx((u, v), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(x=places, y=places, angle=angles, camera_angle=st.floats(-0.3, 0.3))
def test_window_of_a_shape_holds_every_pixel_it_touches(x, y, angle, camera_angle):
    """Painting through the window gives the same picture as painting with coordinates of all pixels."""
    camera, frame = Frame(31.0, 33.5, camera_angle), Frame(x, y, angle)
    windowed, whole = Canvas(64, camera), Canvas(64, camera)
    patch = windowed.patch(frame, -9.0, -4.0, 9.0, 4.0)
    if patch is not None:
        patch.paint(patch.cover(box(patch.u, patch.v, 9.0, 4.0)), (0.2, 0.4, 0.6), metal=1.0, height=2.0)
    everything = whole.patch(frame, -300.0, -300.0, 300.0, 300.0)
    assert everything is not None
    everything.paint(
        everything.cover(box(everything.u, everything.v, 9.0, 4.0)), (0.2, 0.4, 0.6), metal=1.0, height=2.0
    )
    np.testing.assert_allclose(windowed.planes, whole.planes, atol=1e-3)


def test_coverage_of_a_shape_sums_to_its_area_at_any_size():
    for pixels in (64, 128, 256):
        canvas = Canvas(pixels, CENTRED)
        patch = canvas.patch(CENTRED, -12, -12, 12, 12)
        assert patch is not None
        area = float(patch.cover(disc(patch.u, patch.v, 10.0)).sum()) * canvas.pixel**2
        assert area == pytest.approx(math.pi * 100, rel=0.01)


def test_paint_without_colour_changes_the_height_only():
    canvas = Canvas(32, CENTRED)
    patch = canvas.whole
    patch.paint(np.ones_like(patch.u), height=3.0)
    assert (canvas.planes[HEIGHT] == 3.0).all()
    assert (canvas.planes[:HEIGHT] == 0.0).all()


def test_distances_are_negative_inside_and_positive_outside():
    u, v = np.float32([[0.0, 5.0, 3.0]]), np.float32([[0.0, 0.0, 2.0]])
    assert (np.sign(box(u, v, 3.5, 2.5)) == [[-1, 1, -1]]).all()
    assert (np.sign(rounded_box(u, v, 3.5, 2.5, 2.0)) == [[-1, 1, 1]]).all()  # the corner is cut
    assert strokes(u, v, np.float32([[-1, 0, 5, 0]])) == pytest.approx(np.array([[0, 0, 2]]))


def test_dome_is_level_in_the_middle_and_flat_on_the_edge():
    assert dome(np.float32([0.0, -1.0, -4.0]), 2.0).tolist() == [0.0, 0.75, 1.0]


def test_repeat_puts_every_point_within_half_a_pitch_except_beyond_the_ends():
    v = np.linspace(-30, 30, 121, dtype=np.float32)
    folded, copy = repeat(v, 7.0, 5)
    inside = np.abs(v) < 2.5 * 7.0
    assert (np.abs(folded[inside]) <= 3.5 + 1e-4).all()
    assert copy.min() == 0
    assert copy.max() == 4


def test_every_glyph_stays_in_its_cell():
    for letter in GLYPHS:
        segments = text_segments(letter, 6.0)
        assert len(segments)
        assert (np.abs(segments[:, 0::2]) <= 2).all(), letter
        assert (np.abs(segments[:, 1::2]) <= 3).all(), letter


def test_text_is_as_wide_as_announced():
    segments = text_segments("HH", 5.0)
    assert segments[:, 0::2].max() - segments[:, 0::2].min() == pytest.approx(text_width("HH", 5.0))
