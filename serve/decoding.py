"""From the bytes that a client sent to the pixels that a network compares, or to the problem that says why not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from changenet.data.kinds import Kind, PictureError
from changenet.errors import DataError
from changenet.inspection import Inspector
from serve.form import Picture, part_name
from serve.problems import HttpError

# Beginnings of the files that `changenet.data.images` reads; what starts otherwise was never meant as a picture.
_SIGNATURES = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"II*\x00", b"MM\x00*", b"RIFF"),
    *(b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),
)


def decoded(inspector: Inspector, picture: Picture, role: str, *, max_pixels: int) -> NDArray[np.uint8]:
    """Return the lights of a picture decoded, scaled and put together: (3, H, W), 0-255.

    Args:
        inspector: Of the model that compares it.
        picture: The encoded picture of each light.
        role: What a problem calls it: test or golden.
        max_pixels: Limit on the pixels of a light.

    Raises:
        HttpError: It is none (415), too large (413), or unreadable (400).
    """
    for light, content in picture.items():
        if content and not content.startswith(_SIGNATURES):
            raise HttpError(415, "not-a-picture", f"The part {part_name(role, light)!r} is not a picture.")
    try:
        return inspector.prepare_picture(picture, where=role, max_pixels=max_pixels)
    except DataError as error:
        problems = [str(problem) for problem in error.problems]
        if isinstance(error, PictureError) and error.kind is Kind.TOO_LARGE:
            raise HttpError(413, "picture-too-large", problems[0]) from error
        raise HttpError(400, "unreadable-picture", " ".join(problems), problems=problems) from error
