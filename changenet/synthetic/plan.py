"""Which board goes into which split, and which defect happens where: everything but the pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from changenet.description import PASS
from changenet.errors import DataError, Problem
from changenet.synthetic.boards import BOARDS
from changenet.synthetic.defects import possible_defects
from changenet.synthetic.lights import LIGHTS
from changenet.synthetic.sites import Site, make_site

SPLITS = ("train", "val", "test", "infer")
TESTS_PER_GOLDEN = 10
MOST_SITES = 250
SMALL_SPLIT_SHARE = 0.10
DEFECT_SHARE = {"train": 0.25, "val": 1 / 3, "test": 1 / 3, "infer": 1 / 3}

SCARCEST_FIRST = ("tombstone", "bridge", "open_trace", "missing", "shifted", "rotated", "insufficient", "scratch")
"""Defects in the order in which they choose their boards: those that few sites allow come first."""

LIGHT_CHOICE = {
    1: ("WhiteLight",),
    2: ("SolderLight", "WhiteLight"),
    3: ("LowAngleLight", "SolderLight", "WhiteLight"),
    4: LIGHTS,
}
"""Which lights a picture has when it has so many."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Args:
        pairs: Pairs in all splits together, at least 40.
        lights: Lights a picture, 1 to 4.
        goldens: Goldens a site, at least 1.
        size: Side of the square picture of one light, in pixels, at least 32.
        seed: The same request gives the same bytes; not negative.

    Raises:
        DataError: Every value that is out of range.
    """

    pairs: int = 1000
    lights: int = 1
    goldens: int = 1
    size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = {"pairs": (40, 10**7), "lights": (1, 4), "goldens": (1, 16), "size": (32, 512), "seed": (0, 2**63)}
        problems = [
            Problem(f"is {getattr(self, name)}", where=f"--{name}", fix=f"Choose {low} to {high}.")
            for name, (low, high) in ranges.items()
            if not low <= getattr(self, name) <= high
        ]
        if problems:
            raise DataError(problems)

    @property
    def light_names(self) -> tuple[str, ...]:
        """Names of the lights."""
        return LIGHT_CHOICE[self.lights]


@dataclass(frozen=True)
class Pair:
    """One row of a CSV file: a specimen of a site (index into the plan's sites) on the board with a serial number."""

    split: str
    site: int
    serial: int
    label: str


@dataclass(frozen=True)
class Plan:
    """The sites and all pairs, in the order of the CSV files."""

    sites: tuple[Site, ...]
    pairs: tuple[Pair, ...]


def split_sizes(pairs: int) -> dict[str, int]:
    """Return the number of pairs of each split: about 70, 10, 10 and 10 percent.

    >>> split_sizes(1000)
    {'train': 700, 'val': 100, 'test': 100, 'infer': 100}
    """
    small = round(pairs * SMALL_SPLIT_SHARE)
    return {"train": pairs - 3 * small, "val": small, "test": small, "infer": small}


def make_plan(request: Request) -> Plan:
    """Deal boards to splits and defects to boards.

    Every board (serial number) belongs to one split, and all splits inspect the same sites, as in a factory: the
    designs are known from training, the boards are new.
    """
    count = max(8, min(round(request.pairs / TESTS_PER_GOLDEN), MOST_SITES))
    sites = tuple(_site(request.seed, number, count) for number in range(count))
    possible = [possible_defects(site) for site in sites]
    rng = np.random.default_rng([request.seed, 1])
    pairs: list[Pair] = []
    serial = 1
    for split, rows in split_sizes(request.pairs).items():
        cells = [(place % count, serial + place // count) for place in range(rows)]
        labels = _deal([possible[site] for site, _ in cells], DEFECT_SHARE[split], rng)
        pairs += [Pair(split, *cell, label) for cell, label in zip(cells, labels, strict=True)]
        serial = cells[-1][1] + 1
    return Plan(sites, tuple(pairs))


def _site(seed: int, number: int, count: int) -> Site:
    designs = max(1, min(len(BOARDS), count // 8))
    rng = np.random.default_rng([seed, 0, number])
    return make_site(board=BOARDS[number % designs], number=number // designs, rng=rng)


def _deal(possible: list[tuple[str, ...]], share: float, rng: np.random.Generator) -> list[str]:
    """Return the label of each row: every kind of defect about equally often, where the row's site allows it."""
    labels = [PASS] * len(possible)
    defects = max(round(share * len(possible)), min(len(SCARCEST_FIRST), len(possible) // 2))
    free = rng.permutation(len(possible)).tolist()
    kind = 0
    while defects > 0 and free:
        wanted = SCARCEST_FIRST[kind % len(SCARCEST_FIRST)]
        row = next((row for row in free if wanted in possible[row]), None)
        if row is not None:
            labels[row] = wanted
            free.remove(row)
            defects -= 1
        kind += 1
    return labels
