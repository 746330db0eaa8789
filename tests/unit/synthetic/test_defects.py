import numpy as np
import pytest

from changenet.synthetic.defects import DEFECTS, possible_defects, track_places
from changenet.synthetic.specimens import good_specimen

FEWEST_PIXELS = 20


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_shows_wherever_it_is_possible(kind, sites, ideal_picture):
    rng = np.random.default_rng(1)
    possible = [site for site in sites if kind in possible_defects(site)]
    assert len(possible) >= 8
    for site in possible:
        build = good_specimen(site, rng)
        change = np.abs(ideal_picture(site, build) - ideal_picture(site, DEFECTS[kind](site, build, rng)))
        assert (change.max(axis=2) > 20).sum() >= FEWEST_PIXELS, site.name


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_depends_on_its_seed_alone(kind, sites, ideal_picture):
    site = next(site for site in sites if kind in possible_defects(site))
    pictures = []
    for _ in range(2):
        rng = np.random.default_rng(3)
        pictures.append(ideal_picture(site, DEFECTS[kind](site, good_specimen(site, rng), rng)))
    assert (pictures[0] == pictures[1]).all()


def test_every_component_can_be_spoiled_in_at_least_three_ways(sites):
    assert all(len(possible_defects(site)) >= 3 for site in sites)
    assert {site.component.family for site in sites} == {"chip", "package", "header"}


def test_only_two_terminal_parts_stand_up(sites):
    assert all(("tombstone" in possible_defects(site)) == (site.component.family == "chip") for site in sites)


def test_breaks_lie_on_tracks_that_are_seen(sites):
    for site in sites:
        for place, width in track_places(site):
            assert not site.hidden(place.x, place.y)
            assert 3.0 < width < 6.0


def test_tolerances_of_a_good_specimen_are_smaller_than_any_displacement_that_is_a_defect(sites):
    rng = np.random.default_rng(2)
    site = next(site for site in sites if site.component.family == "chip")
    for _ in range(200):
        good = good_specimen(site, rng)
        off = np.hypot(good.placement.x, good.placement.y)
        assert off < 1.1
        assert abs(good.placement.angle) < 0.025
        assert (good.solder > 0.8).all()
        spoiled = DEFECTS["shifted"](site, good, rng)
        assert np.hypot(spoiled.placement.x, spoiled.placement.y) > 4.5
