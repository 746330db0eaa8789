"""Rows of a CSV file to pairs of uint8 pictures: what training, bulk scoring and calibration read."""

from __future__ import annotations

import contextlib
import hashlib
import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from changenet.data.findings import Findings
from changenet.data.golden_cache import GoldenCache
from changenet.data.hints import missing_hint
from changenet.data.images import MAX_PIXELS, decode_picture
from changenet.data.kinds import Kind, PictureError
from changenet.data.lights import PictureLayout, Pixels
from changenet.data.paths import PicturePaths
from changenet.data.randomness import generator
from changenet.errors import DataError, Problem

if TYPE_CHECKING:
    from changenet.data.annotations import Annotations
    from changenet.data.augment import PairAugmentation

GOLDEN_CACHE_MB = 256


class PairSource:
    """The pictures of one CSV file's rows, decoded and resized.

    Goldens are kept in memory, up to a limit, because the same one serves many tests. Every process has its own.

    Args:
        annotations: The rows.
        images_dir: The folder that holds all pictures.
        image_ext: Suffix of the files, with its dot.
        layout: Lights and sizes.
        num_golden: Goldens a pair; above 1, `golden_path` is a folder of any number of them.
        golden_cache_mb: Limit of the kept goldens in MiB; 0 keeps none.
        max_pixels: Limit of one picture file.

    Raises:
        DataError: `images_dir` is not a folder.
    """

    def __init__(
        self,
        *,
        annotations: Annotations,
        images_dir: str | Path,
        image_ext: str,
        layout: PictureLayout,
        num_golden: int = 1,
        golden_cache_mb: int = GOLDEN_CACHE_MB,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.annotations, self.layout, self.num_golden = annotations, layout, num_golden
        self._paths = PicturePaths(images_dir, image_ext=image_ext, lights=layout.lights)
        self._inputs = annotations.frame["input_path"].array
        self._goldens = annotations.frame["golden_path"].array
        self._names = annotations.frame["object_name"].array
        self._cache = GoldenCache(golden_cache_mb << 20)
        self._max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.annotations)

    def test_paths(self, row: int) -> list[Path]:
        """Return the file of each light of the test picture.

        Raises:
            DataError: A path leads outside `images_dir`; names the line of the CSV file.
        """
        return [Path(file) for file in self._test_files(row)]

    def golden_paths(self, row: int, rng: np.random.Generator | None = None) -> list[list[Path]]:
        """Return the files of each golden: a list a golden, a file a light.

        Without `rng` the goldens of a folder are the first by name, repeated in that order when there are too few.
        With it they are drawn: without replacement, or with it when there are too few (TAO).

        Raises:
            DataError: As `test_paths`, or the golden folder is absent or empty.
        """
        return [[Path(file) for file in files] for files in self._golden_files(row, rng)]

    def read(self, row: int) -> tuple[Pixels, Pixels]:
        """Return the pair: test (3, H, W) and golden ([num_golden,] 3, H, W), uint8, chosen without chance.

        Raises:
            DataError: A picture is missing or damaged; names the line of the CSV file and the picture.
        """
        test, goldens = self.read_lights(row)
        return self.assemble(test, goldens)

    def read_lights(self, row: int, rng: np.random.Generator | None = None) -> tuple[Pixels, Pixels]:
        """Return test (lights, 3, h, w) and goldens (num_golden, lights, 3, h, w) before concatenation (raises as `read`).

        The goldens may be shared with the cache: do not write into them.
        """
        files = self._test_files(row)
        goldens = self._golden_files(row, rng)
        try:
            kept = [self._cache.get(golden, self._decode) for golden in goldens]
            return self._decode(files), kept[0][None] if len(kept) == 1 else np.stack(kept)
        except PictureError as error:
            raise self._at(row, error) from error

    def stamp(self, row: int) -> int:
        """Return a number that another file, size or time of change of any picture of the pair changes; none is opened."""
        digest = hashlib.blake2b(digest_size=8)
        with contextlib.suppress(DataError, OSError, ValueError):  # reading the pair says what is wrong
            for file in chain(self._test_files(row), *self._golden_files(row, None)):
                found = os.stat(file)  # noqa: PTH116 - much faster than Path for so many
                digest.update(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\0".encode(errors="surrogateescape"))
        return int.from_bytes(digest.digest(), "big", signed=True)

    def check_files(self) -> None:
        """Make sure that every file that the rows may need is there, all goldens of a folder among them.

        None is opened: `changenet.data.scan` does that.

        Raises:
            DataError: All that are missing or lie outside `images_dir`; of many the first, with the lines of the CSV file.
        """
        findings, there, whole_folders = Findings(), set[str](), set[str]()
        missing: list[tuple[int, str]] = []
        for row in range(len(self)):
            try:
                files = list(self._test_files(row))
                if (folder := self._goldens[row]) not in whole_folders:
                    files += chain.from_iterable(self._golden_files(row, every=True))
                    if self.num_golden > 1:  # thousands of rows may share it
                        whole_folders.add(folder)
            except PictureError as error:
                findings.add(error.kind, error.problem.what, where=error.problem.where, fix=error.problem.fix)
                continue
            for file in files:
                if file not in there and os.path.isfile(file):  # noqa: PTH113 - much faster than Path for so many
                    there.add(file)
                elif file not in there:
                    missing.append((row, file))
        problems = (
            Problem(f"{file}: no such picture", self.annotations.where(row), missing_hint(file, self._paths.root))
            for row, file in missing
        )
        findings.add_many(Kind.MISSING_PICTURE, len(missing), problems)
        findings.raise_errors()

    def assemble(self, test: Pixels, goldens: Pixels) -> tuple[Pixels, Pixels]:
        """Put the lights of a pair into whole pictures, as `read` returns them."""
        whole = self.layout.assemble(goldens)
        return self.layout.assemble(test), whole[0] if self.num_golden == 1 else whole

    def _decode(self, files: tuple[str, ...]) -> Pixels:
        lights = np.empty((len(files), 3, self.layout.height, self.layout.width), dtype=np.uint8)
        for light, file in zip(lights, files, strict=True):
            picture = decode_picture(file, max_pixels=self._max_pixels)
            light[:] = np.asarray(self.layout.resize(picture)).transpose(2, 0, 1)
        return lights

    def _test_files(self, row: int) -> tuple[str, ...]:
        try:
            return self._paths.files(self._inputs[row], self._names[row])
        except PictureError as error:
            raise self._at(row, error) from error

    def _golden_files(
        self, row: int, rng: np.random.Generator | None = None, *, every: bool = False
    ) -> list[tuple[str, ...]]:
        folder = self._goldens[row]
        try:
            if self.num_golden == 1:
                return [self._paths.files(folder, self._names[row])]
            stems = self._paths.stems(folder)
            chosen = range(len(stems)) if every else choose_goldens(len(stems), self.num_golden, rng)
            return [self._paths.files(folder, stems[number]) for number in chosen]
        except PictureError as error:
            raise self._at(row, error) from error

    def _at(self, row: int, error: PictureError) -> DataError:
        problem = error.problem
        what = f"{problem.where}: {problem.what}"
        return PictureError(error.kind, what, where=self.annotations.where(row), fix=problem.fix)


def choose_goldens(available: int, wanted: int, rng: np.random.Generator | None = None) -> list[int]:
    """Return which of the goldens, ordered by name, a pair gets.

    >>> choose_goldens(3, 5)
    [0, 1, 2, 0, 1]
    """
    if rng is None:
        return [index % available for index in range(wanted)]
    chosen: list[int] = rng.choice(available, size=wanted, replace=available < wanted).tolist()
    return chosen


class PairDataset(Dataset[dict[str, Any]]):
    """Pairs as tensors: `{"test": (3, H, W), "golden": ([N,] 3, H, W), "label": int64, "row": int}`, pictures uint8.

    An index is a row, or a (row, place) pair of `WeightedBatchSampler`: what is random depends on
    (seed, epoch, row, place) alone, never on the process that loads the pair.

    Args:
        source: The pictures.
        targets: The class of each row, 0 = PASS.
        augmentation: For training; None changes nothing.
        random_goldens: Draw the goldens of a folder instead of taking the first (training).
        seed: Of the run.
    """

    def __init__(
        self,
        *,
        source: PairSource,
        targets: NDArray[np.int64],
        augmentation: PairAugmentation | None = None,
        random_goldens: bool = False,
        seed: int = 1234,
    ) -> None:
        if len(targets) != len(source):
            raise ValueError(f"{len(targets)} targets for {len(source)} rows")
        self.source, self._targets = source, torch.as_tensor(np.asarray(targets, dtype=np.int64))
        self._augmentation, self._random_goldens, self._seed = augmentation, random_goldens, seed
        # Shared memory: loader workers that outlive an epoch must see the next one.
        self._epoch = torch.zeros(1, dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that randomness is drawn for, in this process and its loader workers."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        row, place = index if isinstance(index, tuple) else (index, 0)
        random = generator("pair", seed=self._seed, epoch=int(self._epoch), rank=place, row=row)
        test, goldens = self.source.read_lights(row, random if self._random_goldens else None)
        if self._augmentation is not None:
            pictures = self._augmentation(torch.from_numpy(test), _tensor(goldens), random)
            test, goldens = pictures[0].numpy(), pictures[1].numpy()
        whole_test, whole_golden = self.source.assemble(test, goldens)
        return {
            "test": torch.from_numpy(whole_test),
            "golden": torch.from_numpy(whole_golden),
            "label": self._targets[row],
            "row": row,
        }


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
