"""A service around an inspector whose score anybody can work out: the difference of the mean brightness."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from changenet.data.images import decode_picture
from changenet.data.lights import PictureLayout
from changenet.description import ModelDescription, Threshold
from serve.ingress import create_app
from serve.inspector import ServedModel
from serve.settings import Limits


@dataclass(frozen=True)
class FakeVerdict:
    score: float
    threshold: float
    prediction: str


class FakeInspector:
    engine_name = "fake"

    def __init__(self, lights: tuple[str, ...], num_golden: int) -> None:
        self.description = ModelDescription(
            network={"difference_module": "learnable", "backbone": "fake", "mean": [0.5] * 3, "std": [0.5] * 3},
            layout=PictureLayout(lights=lights, width=8, height=8),
            threshold=Threshold(value=0.5, policy="recall", target=1.0, interval=(0.9, 1.0)),
            num_golden=num_golden,
            validation_scores={"edges": [0.0, 0.5, 1.0], "PASS": [9, 0], "defect": [0, 4]},
            spec={"dataset": {"images_dir": "/home/somebody/private"}},
        )

    def prepare_picture(self, picture: Any, *, where: str = "", max_pixels: int) -> np.ndarray:
        decoded = [
            decode_picture(picture[light], where=f"{where} {light}".strip(), max_pixels=max_pixels)
            for light in self.description.layout.lights
        ]
        return self.description.layout.combine(decoded)

    def inspect_prepared(self, test: np.ndarray, goldens: Any) -> FakeVerdict:
        score = float(abs(test.mean() - np.mean([golden.mean() for golden in goldens])) / 255)
        return FakeVerdict(score, 0.5, "FAIL" if score > 0.5 else "PASS")


def encoded(level: int = 0, *, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    return encoded


@pytest.fixture
def models() -> dict[str, ServedModel]:
    threads = ThreadPoolExecutor(2)
    inspectors = {
        "pcb": FakeInspector(("",), 1),
        "lights": FakeInspector(("Solder", "White"), 1),
        "goldens": FakeInspector(("",), 3),
    }
    return {
        name: ServedModel(
            name=name, version="0123456789ab", inspector=inspector, decoders=threads, picture_pixels=10_000
        )
        for name, inspector in inspectors.items()
    }


@pytest.fixture
def client_of(models: dict[str, ServedModel]) -> Callable[..., TestClient]:
    def make(**limits: Any) -> TestClient:
        return TestClient(create_app(models, Limits(**limits)), raise_server_exceptions=False)

    return make


@pytest.fixture
def client(client_of: Callable[..., TestClient]) -> TestClient:
    return client_of()
