"""A service around an inspector whose score anybody can work out: the difference of the mean brightness."""

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from changenet.data.lights import PictureLayout
from changenet.description import ModelDescription, Threshold
from changenet.engines import Engine
from changenet.errors import CheckpointError
from changenet.inspection import Inspector
from serve.golden_cache import GoldenCache
from serve.golden_registry import GoldenRegistry
from serve.ingress import create_app
from serve.inspector import ServedModel, Shared
from serve.keys import KeyRing
from serve.metrics import Metrics
from serve.model_state import ModelState, StateFiles
from serve.settings import Limits, ModelSettings, Source
from serve.slot import ModelSlot
from serve.slots import ModelKeeper


class BrightnessEngine(Engine):
    """Its features are the mean brightness of a picture; it counts what it encodes."""

    def __init__(self) -> None:
        super().__init__(name="fake", device="none", precision="fp32", multiclass=False)
        self.batches: list[int] = []

    def encode(self, pictures: np.ndarray) -> tuple[np.ndarray, ...]:
        self.batches.append(len(pictures))
        return (pictures.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)[:, None],)

    def prepare_golden(self, features: Any) -> tuple[np.ndarray, ...]:
        return tuple(features)

    def compare(self, test_features: Any, golden_halves: Any) -> np.ndarray:
        golden = golden_halves[0].reshape(len(golden_halves[0]), -1).mean(axis=1)
        return np.abs(test_features[0][:, 0] - golden) / np.float32(255)

    def pair(self, test: np.ndarray, golden: np.ndarray) -> np.ndarray:
        return np.abs(test.mean(axis=(1, 2, 3)) - golden.mean(axis=(1, 2, 3)))


def fake_inspector(lights: tuple[str, ...] = ("",), num_golden: int = 1) -> Inspector:
    description = ModelDescription(
        network={"difference_module": "learnable", "backbone": "fake", "mean": [0.5] * 3, "std": [0.5] * 3},
        layout=PictureLayout(lights=lights, width=8, height=8),
        threshold=Threshold(value=0.5, policy="recall", target=1.0, interval=(0.9, 1.0)),
        num_golden=num_golden,
        validation_scores={"edges": [0.0, 0.5, 1.0], "PASS": [9, 0], "defect": [0, 4]},
        spec={"dataset": {"images_dir": "/home/somebody/private"}},
    )
    return Inspector(BrightnessEngine(), description)


def encoded(level: int = 0, *, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    return encoded


@pytest.fixture
def inspector_of() -> Callable[..., Inspector]:
    return fake_inspector


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(
        ThreadPoolExecutor(2),
        ThreadPoolExecutor(2),
        10_000,
        GoldenCache(1 << 20),
        GoldenRegistry(str(tmp_path / "goldens")),
    )


@pytest.fixture
def models(shared: Shared) -> dict[str, ServedModel]:
    inspectors = {
        "pcb": fake_inspector(),
        "lights": fake_inspector(("Solder", "White")),
        "goldens": fake_inspector(num_golden=3),
    }
    return {
        name: ServedModel(name=name, version="0123456789ab", inspector=inspector, shared=shared)
        for name, inspector in inspectors.items()
    }


def keep(*models: ServedModel, load: Any = None, files: StateFiles | None = None) -> ModelKeeper:
    def slot(model: ServedModel) -> ModelSlot:
        settings = ModelSettings(name=model.name, bundle="/good")
        return ModelSlot(model, ModelState(configured=(settings,), active=settings.source))

    return ModelKeeper(map(slot, models), load=load, files=files, close_after=60)


@pytest.fixture
def app_of() -> Callable[..., FastAPI]:
    def make(
        *models: ServedModel,
        load: Any = None,
        files: StateFiles | None = None,
        keys: KeyRing | None = None,
        metrics: Metrics | None = None,
        remotes: Any = None,
        hosts: Any = (),
        **limits: Any,
    ) -> FastAPI:
        keeper = keep(*models, load=load, files=files)
        return create_app(keeper, Limits(**limits), keys=keys, hosts=hosts, metrics=metrics, remotes=remotes)

    return make


@pytest.fixture
def client_of(models: dict[str, ServedModel], app_of: Callable[..., FastAPI]) -> Callable[..., TestClient]:
    def make(**limits: Any) -> TestClient:
        return TestClient(app_of(*models.values(), **limits), raise_server_exceptions=False)

    return make


@pytest.fixture
def client(client_of: Callable[..., TestClient]) -> TestClient:
    return client_of()


class Loader:
    """Bundles by path: `/good` and `/strict` load, everything else does not, nor what is `gone`; `held` ones take long."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.loaded: list[str] = []
        self.gone: set[str] = set()
        self.held: dict[str, threading.Event] = {}

    def hold(self, bundle: str) -> threading.Event:
        """Let a bundle load no sooner than the event is set."""
        return self.held.setdefault(bundle, threading.Event())

    def __call__(self, name: str, source: Source) -> ServedModel:
        version = source.bundle.strip("/")
        if source.bundle in self.held:
            assert self.held[source.bundle].wait(60)
        if source.bundle in self.gone:
            raise CheckpointError("is gone", where=source.bundle)
        if version not in ("good", "strict") or source.version not in (None, version):
            raise CheckpointError("no such folder", where=source.bundle)
        self.loaded.append(version)
        inspector = fake_inspector().with_threshold(0.5 if version == "good" else 0.1)
        return ServedModel(name=name, version=version, inspector=inspector, shared=self.shared)


@pytest.fixture
def load(shared: Shared) -> Loader:
    return Loader(shared)


@pytest.fixture
def keeper_of() -> Callable[..., ModelKeeper]:
    return keep
