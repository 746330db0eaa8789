import numpy as np
import pytest

from changenet.synthetic.camera import GOLDEN_DRIFT, TEST_DRIFT, take_pictures
from changenet.synthetic.canvas import HEIGHT, METAL, Canvas, Frame
from changenet.synthetic.lights import LIGHTS, RENDERERS, surface_of
from changenet.synthetic.specimens import good_specimen


def solder_ball(slope: float) -> Canvas:
    """A level field of solder, and right of the middle one that rises to the right."""
    canvas = Canvas(64, Frame(32, 32))
    canvas.planes[: METAL + 1] = np.float32([0.6, 0.6, 0.6, 1.0])[:, None, None]
    canvas.planes[HEIGHT] = np.maximum(canvas.whole.u - 32, 0) * slope
    return canvas


@pytest.mark.parametrize(("slope", "strongest"), [(0.02, 0), (0.55, 1), (2.0, 2)])
def test_solder_light_shows_level_solder_red_then_green_then_steep_solder_blue(slope, strongest):
    picture = RENDERERS["SolderLight"](surface_of(solder_ball(slope)))
    assert picture[:, 30, 50].argmax() == strongest


def test_low_angle_light_leaves_level_solder_dark_and_shows_slopes():
    picture = RENDERERS["LowAngleLight"](surface_of(solder_ball(1.0))).mean(axis=0)
    assert picture[30, 10] < 0.1
    assert picture[30, 50] > 5 * picture[30, 10]


def test_white_light_casts_shadows_away_from_the_lamp_and_uniform_light_none():
    canvas = Canvas(64, Frame(32, 32))
    canvas.planes[:METAL] = 0.3
    canvas.planes[HEIGHT, 20:40, 20:40] = 8.0
    surface = surface_of(canvas)
    white, uniform = RENDERERS["WhiteLight"](surface)[0], RENDERERS["UniformLight"](surface)[0]
    assert white[42, 30] < 0.75 * white[17, 30]
    assert uniform[42, 30] == pytest.approx(uniform[17, 30])


def test_every_light_gives_another_picture_of_the_same_scene(sites):
    rng = np.random.default_rng(0)
    pictures = take_pictures(sites[0], good_specimen(sites[0], rng), size=48, lights=LIGHTS, drift=TEST_DRIFT, rng=rng)
    assert [picture.shape for picture in pictures] == [(48, 48, 3)] * 4
    assert all(picture.dtype == np.uint8 for picture in pictures)
    brightness = dict(zip(LIGHTS, (picture.mean() for picture in pictures), strict=True))
    assert brightness["LowAngleLight"] < brightness["WhiteLight"]
    assert brightness["LowAngleLight"] < brightness["UniformLight"]


@pytest.mark.parametrize("size", [32, 96, 512])
def test_pictures_have_the_size_that_was_asked_for(size, sites):
    rng = np.random.default_rng(0)
    build = good_specimen(sites[1], rng)
    (picture,) = take_pictures(sites[1], build, size=size, lights=("WhiteLight",), drift=GOLDEN_DRIFT, rng=rng)
    assert picture.shape == (size, size, 3)
    assert 20 < picture.mean() < 200
    assert picture.std() > 10
