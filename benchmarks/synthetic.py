"""How fast boards are generated: pairs a second on one core, next to what encoding the same pictures costs alone.

    .venv/bin/python benchmarks/synthetic.py [--size 64] [--lights 1] [--pairs 300]

A pair here is a test *and* a golden picture, both drawn (a data set draws each golden once for about ten tests).
Seconds are processor seconds of this process; the ratio is taken within one process, so it also holds on a busy machine.
"""

from __future__ import annotations

import argparse
import io
import time

import numpy as np
from PIL import Image

from changenet.synthetic.dataset import JPEG_QUALITY
from changenet.synthetic.plan import Request, make_plan
from changenet.synthetic.specimens import golden_pictures, tested_pictures


def encode(picture: np.ndarray, kind: str) -> int:
    """Return the bytes that a picture takes as PNG or JPEG."""
    buffer = io.BytesIO()
    options = {"compress_level": 1} if kind == "PNG" else {"quality": JPEG_QUALITY, "subsampling": 0}
    Image.fromarray(picture).save(buffer, kind, **options)
    return len(buffer.getvalue())


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--size", type=int, default=64)
    arguments.add_argument("--lights", type=int, default=1)
    arguments.add_argument("--pairs", type=int, default=300)
    options = arguments.parse_args()
    request = Request(pairs=options.pairs, lights=options.lights, size=options.size)

    start = time.process_time()
    plan = make_plan(request)
    planned = time.process_time() - start
    golden_pictures(plan.sites[0], request, 0)  # fields of noise are made on first use

    start = time.process_time()
    drawn = []
    for pair in plan.pairs:
        site = plan.sites[pair.site]
        drawn += tested_pictures(site, request, pair) + golden_pictures(site, request, pair.site)
    drawing = time.process_time() - start
    print(f"{options.lights} light(s), {options.size} px: {options.pairs / drawing:.0f} pairs/s a core")
    print(f"planning {options.pairs} pairs: {planned:.2f} s")
    for kind in ("PNG", "JPEG"):
        start = time.process_time()
        size = sum(encode(picture, kind) for picture in drawn)
        encoding = time.process_time() - start
        print(
            f"{kind}: {options.pairs / encoding:.0f} pairs/s encoding alone, {size / len(drawn) / 1000:.1f} kB a picture; "
            f"drawing takes {drawing / encoding:.1f} times as long"
        )


if __name__ == "__main__":
    main()
