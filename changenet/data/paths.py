"""Rows to picture files: names as TAO builds them, never outside `images_dir`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from changenet.data.kinds import Kind, PictureError
from changenet.errors import DataError

_REMEMBERED = 1 << 16  # folders; a set of boards has fewer, and a forgotten one is only looked up again


class PicturePaths:
    """Builds `images_dir/FOLDER/STEM[_LIGHT]EXT` and refuses whatever would leave `images_dir`.

    A folder is resolved once and remembered; a file is resolved only when it is itself a symbolic link.

    Args:
        images_dir: The folder that holds all pictures; it may itself be a link.
        image_ext: Suffix with its dot, added as it is.
        lights: As in `PictureLayout`.

    Raises:
        DataError: `images_dir` is not a folder.
    """

    def __init__(self, images_dir: str | os.PathLike[str], *, image_ext: str, lights: Sequence[str] = ("",)) -> None:
        if not Path(images_dir).is_dir():
            raise DataError("images_dir is not a folder", where=str(images_dir), fix="Check the path.")
        self.root = str(images_dir)
        self._real_root = os.path.realpath(images_dir)
        self._suffixes = tuple(f"_{light}{image_ext}" if light else image_ext for light in lights)
        self._folders: dict[str, str] = {}
        self._stems: dict[str, tuple[str, ...]] = {}

    def files(self, folder: str, stem: str) -> tuple[str, ...]:
        """Return the file of each light of one picture; whether they exist is not asked.

        Raises:
            PictureError: The path is absolute, climbs with `..`, or a link leads out of `images_dir`.
        """
        if stem.startswith("/"):
            raise self._outside(stem)
        inner, _, name = stem.rpartition("/")
        place = self.folder("/".join(part for part in (folder, inner) if part))
        files = tuple(f"{place}/{name}{suffix}" for suffix in self._suffixes)
        for file in files:
            if "\0" in file or (os.path.islink(file) and not self._is_inside(os.path.realpath(file))):  # noqa: PTH114
                raise self._outside(file)
        return files

    def stems(self, folder: str) -> tuple[str, ...]:
        """Return the stems of the goldens in a folder, by name: a file of any light makes one.

        Raises:
            PictureError: The folder is absent, holds no golden, or lies outside `images_dir`.
        """
        if folder not in self._stems:
            place = self.folder(folder)
            try:
                names = os.listdir(place)  # noqa: PTH208 - names are wanted, not paths
            except (OSError, ValueError):
                fix = "With num_golden above 1, golden_path is a folder under images_dir."
                raise PictureError(Kind.GOLDEN_FOLDER_ABSENT, "no such golden folder", where=place, fix=fix) from None
            stems = {name.removesuffix(suffix) for name in names if (suffix := self._suffix_of(name))}
            if not stems:
                what = f"no golden that ends in {' or '.join(self._suffixes)}"
                fix = "Check image_ext and input_map."
                raise PictureError(Kind.GOLDEN_FOLDER_EMPTY, what, where=place, fix=fix)
            _forget(self._stems)
            self._stems[folder] = tuple(sorted(stems))
        return self._stems[folder]

    def folder(self, relative: str) -> str:
        """Return the folder under `images_dir` (raises as `files`)."""
        known = self._folders.get(relative)
        if known is not None:
            return known
        if relative.startswith("/") or "\0" in relative or ".." in relative.split("/"):
            raise self._outside(relative)
        place = os.path.normpath(os.path.join(self.root, relative))  # noqa: PTH118
        if not self._is_inside(os.path.realpath(place)):
            raise self._outside(relative)
        _forget(self._folders)
        self._folders[relative] = place
        return place

    def _suffix_of(self, name: str) -> str:
        # The longest one: with lights `A` and `B_A`, `g1_B_A.png` is a picture of the second.
        return max((suffix for suffix in self._suffixes if name.endswith(suffix)), key=len, default="")

    def _is_inside(self, real: str) -> bool:
        return real == self._real_root or real.startswith(self._real_root.rstrip("/") + "/")

    def _outside(self, path: str) -> PictureError:
        fix = "Use paths relative to images_dir, without '..' and without links that lead out of it."
        return PictureError(Kind.OUTSIDE, f"leads outside images_dir ({self.root})", where=repr(path), fix=fix)


def _forget(remembered: dict[str, object] | dict[str, str] | dict[str, tuple[str, ...]]) -> None:
    if len(remembered) >= _REMEMBERED:
        remembered.clear()
