"""How fast boards are generated and how well plain pixels would tell their defects.

Speed is pairs a second on one core, next to what encoding the same pictures costs alone.

    .venv/bin/python benchmarks/synthetic.py [--size 64] [--lights 1] [--pairs 300]

A pair here is a test *and* a golden picture, both drawn (a data set draws each golden once for about ten tests).
Seconds are processor seconds of this process; the ratio is taken within one process, so it also holds on a busy machine.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from changenet.description import PASS
from changenet.synthetic.dataset import JPEG_QUALITY
from changenet.synthetic.plan import Pair, Plan, Request, make_plan
from changenet.synthetic.specimens import golden_pictures, tested_pictures

CHUNK = 50
"""Enough to hold every kind of component several times."""


def encode(picture: np.ndarray, kind: str) -> int:
    """Return the bytes that a picture takes as PNG or JPEG."""
    buffer = io.BytesIO()
    options = {"compress_level": 1} if kind == "PNG" else {"quality": JPEG_QUALITY, "subsampling": 0}
    Image.fromarray(picture).save(buffer, kind, **options)
    return len(buffer.getvalue())


def best_seconds(work: Callable[[list[Any]], object], items: list[Any]) -> float:
    """Return the processor seconds an item takes, in the quickest of many chunks: other programs disturb that least."""
    seconds = []
    for first in range(0, len(items) - CHUNK + 1, CHUNK):
        start = time.process_time()
        work(items[first : first + CHUNK])
        seconds.append(time.process_time() - start)
    return min(seconds) / CHUNK


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--size", type=int, default=64)
    arguments.add_argument("--lights", type=int, default=1)
    arguments.add_argument("--pairs", type=int, default=1000)
    options = arguments.parse_args()
    request = Request(pairs=options.pairs, lights=options.lights, size=options.size)

    start = time.process_time()
    plan = make_plan(request)
    planned = time.process_time() - start
    golden_pictures(plan.sites[0], request, 0)  # fields of noise are made on first use

    drawn: list[np.ndarray] = []

    def draw(pairs: list[Pair]) -> None:
        for pair in pairs:
            site = plan.sites[pair.site]
            drawn.extend(tested_pictures(site, request, pair) + golden_pictures(site, request, pair.site))

    drawing = best_seconds(draw, list(plan.pairs))
    print(f"{options.lights} light(s), {options.size} px: {1 / drawing:.0f} pairs/s a core")
    print(f"planning {options.pairs} pairs: {planned:.2f} s")
    for kind in ("PNG", "JPEG"):
        encoding = 2 * options.lights * best_seconds(lambda some, kind=kind: [encode(x, kind) for x in some], drawn)
        size = sum(encode(picture, kind) for picture in drawn)
        print(
            f"{kind}: {1 / encoding:.0f} pairs/s encoding alone, {size / len(drawn) / 1000:.1f} kB a picture; "
            f"drawing takes {drawing / encoding:.1f} times as long"
        )
    print(f"AUROC of the largest blurred pixel difference: {pixel_auroc(plan, drawn, options.lights):.3f}")


def pixel_auroc(plan: Plan, drawn: list[np.ndarray], lights: int) -> float:
    """Return how well plain pixels tell defects: max |test - golden| after a blur of 1 px, mean over the lights."""
    scores = []
    for first in range(0, len(drawn), 2 * lights):
        pictures = np.stack(drawn[first : first + 2 * lights]).astype(np.float32)
        change = np.abs(pictures[:lights] - pictures[lights:]).mean(axis=-1)
        scores.append(np.mean([gaussian_filter(light, 1.0).max() for light in change]))
    is_defect = np.array([pair.label != PASS for pair in plan.pairs])
    ranks = rankdata(scores)
    defects = int(is_defect.sum())
    wins = ranks[is_defect].sum() - defects * (defects + 1) / 2
    return float(wins / (defects * (len(scores) - defects)))


if __name__ == "__main__":
    main()
