import numpy as np
import pytest

from changenet.synthetic.builds import Build
from changenet.synthetic.camera import SUPERSAMPLING
from changenet.synthetic.canvas import SIDE, Canvas, Frame
from changenet.synthetic.lights import RENDERERS, surface_of
from changenet.synthetic.plan import Request, make_plan
from changenet.synthetic.scene import draw_scene
from changenet.synthetic.sites import Site


@pytest.fixture(scope="session")
def sites() -> tuple[Site, ...]:
    """Forty sites: every kind of component on every design."""
    return make_plan(Request(pairs=400, seed=5)).sites


@pytest.fixture(scope="session")
def ideal_picture():
    """Photograph without displacement, drift or noise: float (H, W, 3) on the scale of a uint8 picture."""

    def take(site: Site, build: Build, light: str = "WhiteLight", size: int = 64) -> np.ndarray:
        canvas = Canvas(size * SUPERSAMPLING, Frame(SIDE / 2, SIDE / 2))
        draw_scene(canvas, site, build)
        fine = RENDERERS[light](surface_of(canvas))
        coarse = fine.reshape(3, size, SUPERSAMPLING, size, SUPERSAMPLING).mean(axis=(2, 4))
        return 255 * np.sqrt(np.clip(coarse, 0, 1)).transpose(1, 2, 0)

    return take
