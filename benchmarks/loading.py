"""How fast pairs are read: with and without the golden cache, with 1 and 4 lights, augmented or not; and the check.

    .venv/bin/python benchmarks/loading.py [--size 128] [--boards 12] [--parts 24] [--rounds 3]

Pictures are smooth noise with edges, JPEG. Every part of a board design has one golden, which serves all boards, as on
a production line. Figures are per core: processor seconds of one process, the best of the rounds; the ratios are taken
within one process, so they also hold on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

from changenet.data.annotations import read_annotations
from changenet.data.augment import PairAugmentation
from changenet.data.lights import PictureLayout
from changenet.data.pairs import PairDataset, PairSource
from changenet.data.scan import Split, scan
from changenet.data.scan_rows import PictureRules

LIGHTS = ("LowAngleLight", "SolderLight", "UniformLight", "WhiteLight")
CACHE_MB = 256
AUGMENTATIONS = {
    "none": None,
    "flips, right angles": {"hflip_probability": 0.5, "vflip_probability": 0.5, "rotate_probability": 0.5},
    "the same + shift": {
        "hflip_probability": 0.5,
        "vflip_probability": 0.5,
        "rotate_probability": 0.5,
        "shift_probability": 0.5,
    },
    "all of TAO's": {
        "hflip_probability": 0.5,
        "vflip_probability": 0.5,
        "rotate_probability": 0.5,
        "crop": True,
        "blur": True,
        "color_probability": 0.5,
    },
}


def make_boards(folder: Path, *, boards: int, parts: int, lights: tuple[str, ...], size: int) -> Path:
    """Write the pictures and `rows.csv`; return the CSV file."""
    random = np.random.default_rng(0)
    lines = ["input_path,golden_path,label,object_name"]
    for board in ["golden", *(f"board{number:03d}" for number in range(boards))]:
        (folder / "images" / board).mkdir(parents=True)
        for part in range(parts):
            for light in lights:
                coarse = Image.fromarray(random.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8))
                picture = coarse.resize((size, size), Image.Resampling.BICUBIC)
                suffix = f"_{light}" if light else ""
                picture.save(folder / "images" / board / f"part{part:03d}{suffix}.jpg", quality=85)
            if board != "golden":
                label = "missing" if (part + len(lines)) % 10 == 0 else "PASS"
                lines.append(f"{board},golden,{label},part{part:03d}")
    path = folder / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def dataset(path: Path, layout: PictureLayout, *, cache_mb: int, augmentation: dict | None) -> PairDataset:
    """Return a data set with an empty golden cache."""
    annotations = read_annotations(path)
    source = PairSource(
        annotations=annotations,
        images_dir=path.parent / "images",
        image_ext=".jpg",
        layout=layout,
        golden_cache_mb=cache_mb,
    )
    targets = annotations.is_defect.astype(np.int64)
    chosen = PairAugmentation(**augmentation) if augmentation else None
    return PairDataset(source=source, targets=targets, augmentation=chosen)


def seconds(work: Callable[[], object]) -> float:
    """Return the processor seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("size", 128), ("boards", 12), ("parts", 24), ("rounds", 3)):
        arguments.add_argument(f"--{name}", type=int, default=value)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores ({processor()}), Python {platform.python_version()}, "
        f"torch {torch.__version__}, Pillow {PIL.__version__}"
    )
    print(f"{options.boards * options.parts} pairs, {options.size} px JPEG, {options.parts} goldens; a core:")
    for lights in (("",), LIGHTS):
        layout = PictureLayout(lights=lights, width=options.size, height=options.size)
        with tempfile.TemporaryDirectory() as name:
            measure(
                make_boards(Path(name), boards=options.boards, parts=options.parts, lights=lights, size=options.size),
                layout,
                options.rounds,
            )


def measure(path: Path, layout: PictureLayout, rounds: int) -> None:
    """Print the table of one number of lights."""
    cases = {f"no cache, augmentation {name}": (0, settings) for name, settings in list(AUGMENTATIONS.items())[:1]}
    cases |= {f"cache, augmentation {name}": (CACHE_MB, settings) for name, settings in AUGMENTATIONS.items()}
    sets = {name: dataset(path, layout, cache_mb=mb, augmentation=how) for name, (mb, how) in cases.items()}
    rows = len(next(iter(sets.values())))
    for each in sets.values():
        read_all(each)  # fills the cache
    best = {name: min(seconds(lambda each=each: read_all(each)) for _ in range(rounds)) for name, each in sets.items()}
    reference = next(iter(best.values()))
    print(f"\n{len(layout.lights)} light(s)")
    for name, took in best.items():
        print(f"  {name:42s} {rows / took:7.0f} pairs/s   x {reference / took:.2f}")
    rules = PictureRules(image_ext=".jpg", lights=layout.lights)
    split = Split("train", str(path), str(path.parent / "images"))
    took = min(seconds(lambda: scan([split], rules=rules, workers=1)) for _ in range(rounds))
    pictures = len(list((path.parent / "images").rglob("*.jpg")))
    print(f"  {'check (every file opened, decoded, hashed)':42s} {pictures / took:7.0f} pictures/s")


def read_all(pairs: PairDataset) -> None:
    """Read every pair once."""
    for row in range(len(pairs)):
        _ = pairs[row]


def processor() -> str:
    """Return the processor's name, where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
