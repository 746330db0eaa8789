"""What the check does with some rows, in a process of its own: open, decode and hash every picture of them.

Imports neither torch nor pandas: worker processes start fast.
"""

from __future__ import annotations

import hashlib
import signal
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from changenet.data.hints import missing_hint
from changenet.data.images import MAX_PIXELS, decode_file, open_file
from changenet.data.kinds import Kind, PictureError
from changenet.data.paths import PicturePaths

_REMEMBERED = 4096  # pictures: goldens that many neighbouring rows share are decoded once
_EXTENSIONS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".jp2": "JPEG2000",
}


@dataclass(frozen=True)
class PictureRules:
    """How rows become files.

    Args:
        image_ext: Suffix of the files, with its dot.
        lights: As in `PictureLayout`.
        num_golden: Above 1, `golden_path` is a folder, all of whose goldens are looked at.
        max_pixels: Limit of one picture.
    """

    image_ext: str
    lights: tuple[str, ...] = ("",)
    num_golden: int = 1
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Rows:
    """Some rows of one split."""

    split: int
    images_dir: str
    start: int
    inputs: list[str]
    goldens: list[str]
    names: list[str]


class Facts(NamedTuple):
    """One picture that decodes; two with the same pixels have the same digest, whatever the file format."""

    digest: int
    size: tuple[int, int]
    format: str
    brightness: float


class RowFinding(NamedTuple):
    """Trouble of one row; `picture` names the file when it is about one."""

    row: int
    kind: Kind
    what: str
    picture: str
    fix: str


GOLDEN = np.dtype(
    [("key", np.uint64), ("row", np.int64), ("golden", np.int32), ("light", np.int32), ("brightness", np.float32)]
)
"""One light of one golden: a key of its path, the row that used it, which golden of that row, its mean (0-255)."""


@dataclass
class RowsResult:
    """What came of some rows; the digests are 0 where a picture could not be read."""

    split: int
    start: int
    tests: np.ndarray
    pairs: np.ndarray
    found: list[RowFinding] = field(default_factory=list)
    goldens: np.ndarray = field(default_factory=lambda: np.empty(0, GOLDEN))


class RowChecker:
    """Checks rows; keeps what it learned about pictures and folders between calls."""

    def __init__(self, rules: PictureRules) -> None:
        self._rules = rules
        self._paths: dict[str, PicturePaths] = {}
        self._facts: OrderedDict[str, Facts | PictureError] = OrderedDict()

    def check(self, rows: Rows) -> RowsResult:
        """Look at every picture of these rows."""
        paths = self._paths.setdefault(rows.images_dir, self._new_paths(rows.images_dir))
        count = len(rows.names)
        result = RowsResult(rows.split, rows.start, np.zeros(count, np.uint64), np.zeros(count, np.uint64))
        goldens: dict[str, tuple[int, int, int, int, float]] = {}
        for index, (folder, golden, name) in enumerate(zip(rows.inputs, rows.goldens, rows.names, strict=True)):
            self._check_row(index, paths, folder, golden, name, result, goldens)
        result.goldens = np.array(list(goldens.values()), GOLDEN)
        return result

    def _new_paths(self, images_dir: str) -> PicturePaths:
        return PicturePaths(images_dir, image_ext=self._rules.image_ext, lights=self._rules.lights)

    def _check_row(
        self,
        index: int,
        paths: PicturePaths,
        folder: str,
        golden: str,
        name: str,
        result: RowsResult,
        goldens: dict[str, tuple[int, int, int, int, float]],
    ) -> None:
        row, found = result.start + index, []
        facts: list[list[Facts | PictureError]] = []
        try:
            facts.append([self._picture(file, paths.root) for file in paths.files(folder, name)])
        except PictureError as error:
            facts.append([error])
        try:
            for number, files in enumerate(golden_files(paths, self._rules, golden, name)):
                lights = [self._picture(file, paths.root) for file in files]
                facts.append(lights)
                for light, (file, fact) in enumerate(zip(files, lights, strict=True)):
                    if isinstance(fact, Facts) and file not in goldens:
                        key = _digest(file.encode("utf-8", "surrogateescape"))
                        goldens[file] = (key, row, number, light, fact.brightness)
        except PictureError as error:
            facts.append([error])
        for fact in (fact for picture in facts for fact in picture):
            if isinstance(fact, PictureError):
                problem = fact.problem
                found.append(RowFinding(row, fact.kind, problem.what, problem.where, problem.fix))
        found += self._compare(row, facts)
        result.found += found
        digests = [_combined(picture) for picture in facts]
        result.tests[index] = digests[0]
        result.pairs[index] = _digest(repr(digests).encode()) if all(digests) else 0

    def _compare(self, row: int, facts: list[list[Facts | PictureError]]) -> list[RowFinding]:
        known = [fact for picture in facts for fact in picture if isinstance(fact, Facts)]
        found = []
        sizes = sorted({fact.size for fact in known})
        if len(sizes) > 1:
            what = "the pictures of this pair differ in size: " + ", ".join(
                f"{width} x {height}" for width, height in sizes
            )
            found.append(RowFinding(row, Kind.UNEQUAL_SIZES, what, "", "Every picture is resized by itself."))
        expected = _EXTENSIONS.get(Path(f"x{self._rules.image_ext}").suffix.lower())
        for wrong in sorted({fact.format for fact in known if expected and fact.format != expected}):
            what = f"a file named {self._rules.image_ext} holds {wrong}"
            found.append(RowFinding(row, Kind.EXTENSION, what, "", "It is read all the same."))
        return found

    def _picture(self, path: str, root: str) -> Facts | PictureError:
        known = self._facts.get(path)
        if known is None:
            known = self._look(path, root)
            self._facts[path] = known
            if len(self._facts) > _REMEMBERED:
                self._facts.popitem(last=False)
        else:
            self._facts.move_to_end(path)
        return known

    def _look(self, path: str, root: str) -> Facts | PictureError:
        try:
            with open_file(path) as file:
                picture, kind = decode_file(file, where=path, max_pixels=self._rules.max_pixels)
        except PictureError as error:
            if error.kind is Kind.MISSING_PICTURE:
                fix = missing_hint(path, root) or error.problem.fix
                return PictureError(error.kind, error.problem.what, where=path, fix=fix)
            return error
        pixels = np.asarray(picture)
        return Facts(_digest(pixels.data, str(pixels.shape).encode()), picture.size, kind, float(pixels.mean()))


def golden_files(paths: PicturePaths, rules: PictureRules, folder: str, name: str) -> list[tuple[str, ...]]:
    """Return the files of every golden of a row, whichever of them training will draw."""
    if rules.num_golden == 1:
        return [paths.files(folder, name)]
    return [paths.files(folder, stem) for stem in paths.stems(folder)]


def _digest(content: bytes | memoryview, salt: bytes = b"") -> int:
    """Return 64 bits, never 0."""
    digest = hashlib.blake2b(content, digest_size=8)
    digest.update(salt)
    return int.from_bytes(digest.digest(), "big") or 1


def _combined(picture: list[Facts | PictureError]) -> int:
    digests = [fact.digest if isinstance(fact, Facts) else 0 for fact in picture]
    if not all(digests):
        return 0
    return digests[0] if len(digests) == 1 else _digest(repr(digests).encode())


_checker: RowChecker | None = None


def start_worker(rules: PictureRules) -> None:
    """Make this process's checker (initialiser of a process pool)."""
    global _checker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends the pool
    _checker = RowChecker(rules)


def check_in_worker(rows: Rows) -> RowsResult:
    """Check rows with this process's checker."""
    assert _checker is not None
    return _checker.check(rows)
