"""How one specimen of a site came off the line: tolerances of a good one, and the hooks that defects pull."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from changenet.synthetic.boards import Break
from changenet.synthetic.canvas import SIDE, Floats, Frame

MOST_SPECKS = 2


@dataclass(frozen=True)
class Build:
    """The state of one assembled site. Lengths are in units, angles in radians.

    Args:
        placement: The part's displacement against its ideal place.
        present: False when the part is missing.
        standing: -1 or 1 when a two-terminal part stands on that end (tombstone), else 0.
        solder: Solder at each joint, 1 = nominal.
        silk: Displacement of the silkscreen.
        bridges: First joints of pairs that a solder bridge joins, with the bridge's width.
        gap: The break of an open track.
        scratch: Chain of points (N, 2) of a scratch on the board, or None.
        specks: Dust and flux residue: rows (x, y, radius, brightness).
        marking: Text on the part; lots differ from specimen to specimen.
        shade: Factor on the colour of the part's body; lots differ.
    """

    solder: Floats
    placement: Frame = field(default_factory=lambda: Frame(0.0, 0.0))
    present: bool = True
    standing: int = 0
    silk: tuple[float, float] = (0.0, 0.0)
    bridges: tuple[tuple[int, float], ...] = ()
    gap: Break | None = None
    scratch: Floats | None = None
    specks: Floats = field(default_factory=lambda: np.empty((0, 4), np.float32))
    marking: str = ""
    shade: float = 1.0


def good_build(*, joints: int, marking: str, rng: np.random.Generator) -> Build:
    """Draw a specimen within the tolerances of a good line.

    Args:
        joints: Number of solder joints of the site.
        marking: What the part's body says; `#` becomes a digit of the lot.
        rng: Source of the draw.
    """
    digits = iter(rng.integers(10, size=len(marking)).tolist())
    lot = "".join(str(next(digits)) if letter == "#" else letter for letter in marking)
    specks = rng.random((int(rng.integers(MOST_SPECKS + 1)), 4), dtype=np.float32)
    specks *= (SIDE, SIDE, 0.25, 0.3)
    specks[:, 2] += 0.3
    x, y, turn, silk_x, silk_y = rng.standard_normal(5).clip(-2.3, 2.3).tolist()
    return Build(
        solder=np.clip(1.0 + 0.05 * rng.standard_normal(joints, dtype=np.float32), 0.88, 1.12),
        placement=Frame(0.3 * x, 0.3 * y, 0.008 * turn),
        silk=(0.25 * silk_x, 0.25 * silk_y),
        specks=specks,
        marking=lot,
        shade=float(rng.uniform(0.92, 1.08)),
    )
