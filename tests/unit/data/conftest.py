"""Tiny real pictures and CSV files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

COLUMNS = ("input_path", "golden_path", "label", "object_name")


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """A noisy RGB picture by seed."""

    def make(seed: int = 0, size: tuple[int, int] = (16, 12), mean: int = 128) -> Image.Image:
        random = np.random.default_rng(seed)
        low, high = max(0, mean - 40), min(256, mean + 40)
        return Image.fromarray(random.integers(low, high, (size[1], size[0], 3), dtype=np.uint8))

    return make


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[..., Path]:
    """Write a CSV file of (input_path, golden_path, label, object_name) rows, or of any text or bytes."""

    def write(content: str | bytes | Sequence[Sequence[str]], name: str = "train.csv") -> Path:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8", newline="")
        else:
            path.write_text("\n".join([",".join(COLUMNS), *(",".join(row) for row in content)]) + "\n")
        return path

    return write


@pytest.fixture
def boards(tmp_path: Path, picture: Callable[..., Image.Image]) -> Callable[..., tuple[Path, list[list[str]]]]:
    """Write PNG pairs `images/test|golden/partNN[_LIGHT].png`; every fourth row is a defect."""

    def write(count: int = 8, lights: Sequence[str] = ("",), offset: int = 0) -> tuple[Path, list[list[str]]]:
        root, rows = tmp_path / "images", []
        for number in range(offset, offset + count):
            for which, kind in enumerate(("test", "golden")):
                (root / kind).mkdir(parents=True, exist_ok=True)
                for index, light in enumerate(lights):
                    suffix = f"_{light}" if light else ""
                    seed = number * 100 + which * 10 + index
                    picture(seed).save(root / kind / f"part{number:02d}{suffix}.png")
            rows.append(["test", "golden", "missing" if number % 4 == 3 else "PASS", f"part{number:02d}"])
        return root, rows

    return write


@pytest.fixture
def counts() -> Callable[[Any], Mapping[str, int]]:
    """The counts of findings by the names of their kinds."""
    return lambda findings: {kind.value: count for kind, count in findings.counts.items()}
