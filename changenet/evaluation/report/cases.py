"""Which pairs a person should look at, and their pictures as small PNG data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from changenet.data.lights import PictureLayout
from changenet.evaluation.curves import checked

SIDE = 128  # pixels of one light in the report


@dataclass(frozen=True)
class Selection:
    """Rows worth looking at, the most telling first: indices into the scores."""

    escapes: NDArray[np.int64]
    false_calls: NDArray[np.int64]
    closest: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Case:
    """One pair in the report.

    Args:
        name: What the user calls it (object name).
        line: Line in the CSV file.
        label: Its label.
        score: Its score.
        prediction: What was decided.
        test: uint8 (3, H, W), lights concatenated.
        golden: uint8 (3, H, W).
    """

    name: str
    line: int
    label: str
    score: float
    prediction: str
    test: NDArray[np.uint8]
    golden: NDArray[np.uint8]


def select_cases(scores: Any, is_defect: Any, threshold: float, *, limit: int = 12) -> Selection:
    """Return the worst escapes (lowest scores), the worst false calls (highest) and the closest right decisions.

    Raises:
        ValueError: The lengths differ, or a score is NaN or infinite.
    """
    scores, is_defect = checked(scores, is_defect)
    fails = scores > threshold
    by_score = np.argsort(scores, kind="stable")
    right = np.flatnonzero(fails == is_defect)
    return Selection(
        escapes=by_score[(is_defect & ~fails)[by_score]][:limit],
        false_calls=by_score[::-1][(~is_defect & fails)[by_score[::-1]]][:limit],
        closest=right[np.argsort(np.abs(scores[right] - threshold), kind="stable")][:limit],
    )


def case_pictures(case: Case, layout: PictureLayout) -> list[tuple[str, str]]:
    """Return (caption, data URI) of the test, the golden and their difference."""
    difference = np.abs(case.test.astype(np.int16) - case.golden.astype(np.int16)).astype(np.uint8)
    named = (("test", case.test), ("golden", case.golden), ("difference", difference))
    return [(caption, data_uri(_png(_thumbnail(picture, layout)))) for caption, picture in named]


def data_uri(png: bytes) -> str:
    """Return PNG bytes as a URI that an `<img>` shows without another file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _thumbnail(picture: NDArray[np.uint8], layout: PictureLayout) -> Image.Image:
    """Return lights in a row (linear) or in their grid, each light at most `SIDE` pixels."""
    lights = np.split(picture, len(layout.lights), axis=1) if layout.concat == "linear" else [picture]
    strip = Image.fromarray(np.concatenate(lights, axis=2).transpose(1, 2, 0))
    scale = min(1.0, SIDE / max(layout.width, layout.height))
    if scale == 1.0:
        return strip
    return strip.resize((round(strip.width * scale), round(strip.height * scale)), Image.Resampling.LANCZOS)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
