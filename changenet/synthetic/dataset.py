"""A synthetic data set on disk: pictures in the layout of a factory, CSV files and a spec that trains on them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from changenet import storage
from changenet.description import PASS
from changenet.errors import DataError
from changenet.synthetic.defects import DEFECTS
from changenet.synthetic.plan import SPLITS, Pair, Plan, Request, make_plan
from changenet.synthetic.recipe import write_recipe
from changenet.synthetic.sites import Site
from changenet.synthetic.specimens import golden_pictures, tested_pictures

IMAGE_EXT = ".jpg"
JPEG_QUALITY = 92
MARKER = "sample.json"
FORMAT_VERSION = 1
HEADER = ("input_path", "golden_path", "label", "object_name")
FEW_PAIRS = 300
"""Up to so many pairs, starting processes takes longer than it saves."""


@dataclass(frozen=True)
class Summary:
    """What was written: folder, number of pictures, and pairs by split and label."""

    folder: str
    pictures: int
    counts: dict[str, dict[str, int]]


def write_dataset(
    folder: str | os.PathLike[str],
    request: Request,
    *,
    workers: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> Summary:
    """Write pictures, `train.csv`, `val.csv`, `test.csv`, `infer.csv` and `spec.yaml`.

    The bytes depend on the request alone, not on the number of processes. Writing the same request into the same
    folder again is allowed; `spec.yaml` then keeps what its reader changed.

    Args:
        folder: New or empty, or written before by the same request.
        request: What to write.
        workers: Processes; unset = one a core, or none for a small set.
        advance: Called with a number of pairs when they are done.

    Raises:
        DataError: The folder holds anything else.
    """
    root = Path(folder).resolve()
    _claim(root, request)
    plan = make_plan(request)
    jobs: dict[int, list[Pair]] = {number: [] for number in range(len(plan.sites))}
    for pair in plan.pairs:
        jobs[pair.site].append(pair)
    pictures = 0
    for number, written in _run(root / "images", request, plan, jobs, workers):
        pictures += written
        if advance is not None:
            advance(len(jobs[number]))
    counts: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        rows = [pair for pair in plan.pairs if pair.split == split]
        storage.write_text(root / f"{split}.csv", _csv(rows, plan, request))
        labels = [pair.label for pair in rows]
        counts[split] = {label: labels.count(label) for label in (PASS, *DEFECTS) if label in labels}
    if not (root / "spec.yaml").exists():
        storage.write_text(root / "spec.yaml", write_recipe(root, request, sum(counts["train"].values()), IMAGE_EXT))
    return Summary(str(root), pictures, counts)


def _claim(root: Path, request: Request) -> None:
    """Make the folder ours, or refuse it."""
    if root.exists() and not root.is_dir():
        raise DataError("is a file", where=str(root), fix="Name a new folder.")
    marker = root / MARKER
    claim = {"format_version": FORMAT_VERSION, **asdict(request)}
    if marker.is_file():
        if json.loads(storage.read_text(marker)) != claim:
            raise DataError(
                "holds a sample made with other options", where=str(root), fix="Name a new folder, or delete this one."
            )
    elif root.exists() and any(root.iterdir()):
        raise DataError("is not empty", where=str(root), fix="Name a new or empty folder.")
    storage.write_text(marker, json.dumps(claim, indent=2) + "\n")


def _run(
    images: Path, request: Request, plan: Plan, jobs: dict[int, list[Pair]], workers: int | None
) -> Iterator[tuple[int, int]]:
    """Write all sites, and yield (site, pictures written) as they get done."""
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = workers if request.pairs > FEW_PAIRS else 1
    if workers <= 1:
        for number, pairs in jobs.items():
            yield number, write_site(images, request, plan.sites[number], number, pairs)
        return
    # Spawned, because a forked child would inherit the locks of the progress bar's thread.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {
            pool.submit(write_site, images, request, plan.sites[number], number, pairs): number
            for number, pairs in jobs.items()
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_site(images: Path, request: Request, site: Site, number: int, pairs: list[Pair]) -> int:
    """Write the goldens and the test pictures of one site, and return how many files that were."""
    written = 0
    for golden in range(request.goldens):
        stem = images / _golden_path(site, request) / (site.name if request.goldens == 1 else f"golden_{golden + 1}")
        written += _write(stem, golden_pictures(site, request, number, golden), request)
    for pair in pairs:
        stem = images / _input_path(site, pair) / site.name
        written += _write(stem, tested_pictures(site, request, pair), request)
    return written


def _input_path(site: Site, pair: Pair) -> str:
    return f"test/{site.board.name}_{pair.serial:04d}"


def _golden_path(site: Site, request: Request) -> str:
    return f"golden/{site.board.name}" if request.goldens == 1 else f"golden/{site.board.name}/{site.name}"


def _write(stem: Path, pictures: list[np.ndarray], request: Request) -> int:
    stem.parent.mkdir(parents=True, exist_ok=True)
    for light, picture in zip(request.light_names, pictures, strict=True):
        suffix = f"_{light}" if request.lights > 1 else ""
        # Not atomic: thousands of small files, and `sample.json` says that the folder is ours to write again.
        Image.fromarray(picture).save(f"{stem}{suffix}{IMAGE_EXT}", quality=JPEG_QUALITY, subsampling=0)
    return len(pictures)


def _csv(pairs: list[Pair], plan: Plan, request: Request) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADER)
    for pair in pairs:
        site = plan.sites[pair.site]
        table.writerow((_input_path(site, pair), _golden_path(site, request), pair.label, site.name))
    return text.getvalue()
