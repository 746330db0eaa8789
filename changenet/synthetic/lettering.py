"""The stroke font of silkscreens and part markings: each glyph is drawn with a pen, as plotters and lasers do."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from changenet.synthetic.canvas import Floats

ADVANCE = 5.6
"""Distance from one letter to the next, in pen units; a letter is 4 wide and 6 high."""

# Strokes are separated by blanks; each is a chain of points, two digits (x, y) a point, y downwards.
GLYPHS = {
    "0": "1030414536160501100041",
    "1": "112026 1636",
    "2": "011030414306 0646",
    "3": "0110304142334445361605 1333",
    "4": "3600 300444 3036",
    "5": "400002324345361605",
    "6": "4110010516364543321203",
    "7": "004016",
    "8": "1030414233130201 1013 1333444536160504 1304",
    "9": "0516364541301001021343",
    "A": "06022042 4246 0444",
    "B": "0006364534 0030413203 0333",
    "C": "4130100105163645",
    "D": "000626444220 2000",
    "E": "40000646 0333",
    "F": "400006 0333",
    "H": "0006 4046 0343",
    "J": "4045361605",
    "K": "0006 4003 0346",
    "L": "000646",
    "M": "0600234046",
    "N": "06004640",
    "P": "06003041423303",
    "Q": "103041453616050110 2346",
    "R": "06003041423303 2346",
    "S": "413010010213334445361605",
    "T": "0040 2026",
    "U": "000516364540",
    "V": "002640",
    "X": "0046 4006",
}


@lru_cache(maxsize=4096)
def text_segments(text: str, height: float) -> Floats:
    """Return the pen strokes of `text`, centred on the origin, as rows (u0, v0, u1, v1) in units.

    Args:
        text: Letters of `GLYPHS`; a blank leaves a gap.
        height: Height of a letter in units.
    """
    scale = height / 6.0
    middle = (ADVANCE * (len(text) - 1) + 4.0) / 2
    rows = []
    for place, letter in enumerate(text):
        for stroke in GLYPHS.get(letter, "").split():
            points = [
                ((int(stroke[i]) + place * ADVANCE - middle) * scale, (int(stroke[i + 1]) - 3.0) * scale)
                for i in range(0, len(stroke), 2)
            ]
            rows += [(*start, *end) for start, end in pairwise(points)]
    return np.array(rows, np.float32).reshape(-1, 4)


def text_width(text: str, height: float) -> float:
    """Return the width of `text` in units."""
    return (ADVANCE * (len(text) - 1) + 4.0) * height / 6.0
