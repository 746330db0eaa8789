"""The pictures of a data set: goldens, and tested specimens that are good or spoiled, each from a seed of its own."""

from __future__ import annotations

import numpy as np

from changenet.description import PASS
from changenet.synthetic.builds import Build, good_build
from changenet.synthetic.camera import GOLDEN_DRIFT, TEST_DRIFT, take_pictures
from changenet.synthetic.defects import DEFECTS
from changenet.synthetic.plan import Pair, Request
from changenet.synthetic.sites import Site

_GOLDEN, _TEST = 2, 3  # purposes of random draws; plan.py has 0 and 1


def good_specimen(site: Site, rng: np.random.Generator) -> Build:
    """Draw a good specimen of a site."""
    return good_build(joints=site.component.joints, marking=site.component.marking, rng=rng)


def golden_pictures(site: Site, request: Request, number: int, golden: int = 0) -> list[np.ndarray]:
    """Photograph a golden of a site under each light: uint8 (size, size, 3).

    Args:
        site: The site.
        request: Size, lights and seed.
        number: The site's number in the plan.
        golden: Which of the site's goldens.
    """
    rng = np.random.default_rng([request.seed, _GOLDEN, number, golden])
    build = good_specimen(site, rng)
    return take_pictures(site, build, size=request.size, lights=request.light_names, drift=GOLDEN_DRIFT, rng=rng)


def tested_pictures(site: Site, request: Request, pair: Pair) -> list[np.ndarray]:
    """Photograph a pair's tested specimen under each light: uint8 (size, size, 3)."""
    rng = np.random.default_rng([request.seed, _TEST, pair.site, pair.serial])
    build = good_specimen(site, rng)
    if pair.label != PASS:
        build = DEFECTS[pair.label](site, build, rng)
    return take_pictures(site, build, size=request.size, lights=request.light_names, drift=TEST_DRIFT, rng=rng)
