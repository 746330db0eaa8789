from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from changenet.data.lights import PictureLayout
from changenet.evaluation.report.cases import Case


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """Builds a case whose pictures fit a layout; every field can be replaced."""

    def make(layout: PictureLayout, **fields: Any) -> Case:
        random = np.random.default_rng(3)
        test, golden = (random.integers(0, 256, layout.shape, dtype=np.uint8) for _ in range(2))
        defaults = {"name": "R17", "line": 2, "label": "open", "score": 0.25, "prediction": "PASS"}
        return Case(**{**defaults, "test": test, "golden": golden, **fields})

    return make
