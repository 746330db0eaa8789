"""Pairs that show a network what it will see: for the ranges of a quantization, and to compare what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from changenet.data.images import decode_picture
from changenet.data.kinds import PictureError
from changenet.data.lights import PictureLayout, Pixels
from changenet.data.paths import PicturePaths
from changenet.data.randomness import generator
from changenet.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp")  # what TAO looks for in a folder of calibration pictures
_SEED = 20


class Pairs(Protocol):
    """Pairs by number, as `changenet.data.pairs.PairSource` has them."""

    def __len__(self) -> int: ...

    def read(self, row: int) -> tuple[Pixels, Pixels]:
        """Return test (3, H, W) and golden ([num_golden,] 3, H, W), uint8."""
        ...


class PicturesAlone:
    """The pictures of one folder, each of them its own golden.

    Args:
        images_dir: The folder; its subfolders are not read. Files that differ by the light only are one picture.
        image_ext: Suffix of the files; where none has it, the first of `EXTENSIONS` that one has.
        layout: Lights and sizes.
        num_golden: How often a picture is its golden.

    Raises:
        DataError: No folder, or no picture in it.
    """

    def __init__(self, images_dir: str | Path, *, image_ext: str, layout: PictureLayout, num_golden: int = 1) -> None:
        self._layout, self._goldens = layout, num_golden
        wanted = PicturePaths(images_dir, image_ext=image_ext, lights=layout.lights)
        for extension in EXTENSIONS:
            paths = PicturePaths(images_dir, image_ext=extension, lights=layout.lights)
            if not _stems(wanted) and _stems(paths):
                wanted = paths
        if not _stems(wanted) and (inner := _folder_of_pictures(images_dir)):
            what = "holds no pictures but in its subfolders, which are not read"
            fix = f"Name the folder that holds them, such as {inner}, or a csv_path, too."
            raise DataError(what, where=f"quant_calibration_dataset.images_dir: {images_dir}", fix=fix)
        self._paths, self._stems = wanted, wanted.stems("")

    def __len__(self) -> int:
        return len(self._stems)

    def read(self, row: int) -> tuple[Pixels, Pixels]:
        """See `Pairs`.

        Raises:
            DataError: A light is missing, or a file is no picture.
        """
        lights = [decode_picture(file) for file in self._paths.files("", self._stems[row])]
        picture = self._layout.combine(lights)
        return picture, picture if self._goldens == 1 else np.stack([picture] * self._goldens)


def _folder_of_pictures(images_dir: str | Path) -> str | None:
    """Return the first folder below `images_dir` that holds a picture."""
    return next((str(path.parent) for path in Path(images_dir).rglob("*") if path.suffix in EXTENSIONS), None)


def _stems(paths: PicturePaths) -> tuple[str, ...]:
    try:
        return paths.stems("")
    except PictureError:
        return ()


def stratified(labels: Sequence[str] | NDArray[np.object_], count: int) -> list[int]:
    """Return at most `count` rows, sorted: of every label equally many, as far as it has them; always the same ones.

    >>> stratified(["PASS", "PASS", "PASS", "open"], 2)
    [1, 3]
    """
    random = generator("calibration", seed=_SEED)
    turns: list[tuple[int, float, int]] = []
    for label in sorted(set(labels)):
        rows = np.flatnonzero(np.asarray(labels, dtype=object) == label)
        turns += [(turn, random.random(), int(row)) for turn, row in enumerate(random.permutation(rows))]
    return sorted(row for _, _, row in sorted(turns)[:count])


def drawn(total: int, count: int) -> list[int]:
    """Return at most `count` of `total` rows, sorted: every row as likely as any other; always the same ones.

    Labels are as frequent as in the whole set, so that a share of such rows says what the share of all rows is.

    >>> drawn(3, 5)
    [0, 1, 2]
    """
    random = generator("comparison", seed=_SEED)
    return sorted(random.permutation(total)[:count].tolist())


def batches(pairs: Pairs, rows: Sequence[int], *, size: int) -> Iterator[tuple[Pixels, Pixels]]:
    """Yield tests (B, 3, H, W) and goldens (B, [N,] 3, H, W) of rows, in their order (raises as `read`)."""
    for start in range(0, len(rows), size):
        tests, goldens = zip(*(pairs.read(row) for row in rows[start : start + size]), strict=True)
        yield np.stack(tests), np.stack(goldens)
