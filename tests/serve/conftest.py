"""One real service on a real local Ray for the tests of a module: tiny untrained networks, real bundles."""

import io
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

os.environ["RAY_AUTH_MODE"] = "disabled"

LIGHTS = ("SolderLight", "WhiteLight")


def make_bundle(folder: Path, *, lights: tuple[str, ...], difference_module: str, seed: int) -> str:
    import torch

    from changenet.data.images import decode_picture
    from changenet.data.lights import PictureLayout
    from changenet.description import ModelDescription, Threshold
    from changenet.export.onnx import export_bundle
    from changenet.model.network import ChangeNet
    from changenet.training.checkpoint import Checkpoint

    torch.manual_seed(seed)
    layout = PictureLayout(lights=lights, width=32, height=32)
    network = ChangeNet(
        backbone="timm/test_efficientnet",
        difference_module=difference_module,
        image_size=layout.shape[1:],
        embed_dim=8,
        learnable_difference_modules=2,
    )
    spread_scores(network, [layout.combine([decode_picture(board(n))] * len(lights)) for n in range(16)])
    description = ModelDescription(
        network=network.arguments,
        layout=layout,
        threshold=Threshold(value=0.5, policy="recall", target=1.0),
        validation_scores={"edges": [0.0, 0.5, 1.0], "PASS": [9, 0], "defect": [0, 4]},
    )
    export_bundle(Checkpoint(description=description, state=network.state_dict()), folder)
    return str(folder)


def spread_scores(network: Any, pictures: list[np.ndarray]) -> None:
    """Fit the batch statistics to the pictures; untrained, the network would score all pairs alike."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = None  # average over the passes
    batch = network.normalise(torch.from_numpy(np.stack(pictures)))
    network.train()
    with torch.no_grad():
        for _ in range(5):
            network(batch, batch.flip(0))


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "pcb": make_bundle(folder / "pcb", lights=("",), difference_module="learnable", seed=5),
        "lights": make_bundle(folder / "lights", lights=LIGHTS, difference_module="euclidean", seed=2),
    }


@pytest.fixture(scope="session")
def successor(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another training of the model pcb."""
    return make_bundle(
        tmp_path_factory.mktemp("successor") / "pcb", lights=("",), difference_module="learnable", seed=9
    )


@pytest.fixture(scope="session")
def local_ray() -> Callable[[int], AbstractContextManager[None]]:
    """Return what runs a Ray of so many CPUs, whatever the machine has, and as `changenet serve` does: behind HAProxy."""
    from ray_jobs.serve_proxy import in_front  # before ray: it switches usage statistics off
    from serve.environment import ENVIRONMENT

    import ray  # isort: skip

    @contextmanager
    def run(cpus: int) -> Iterator[None]:
        os.environ.update(ENVIRONMENT)
        with in_front("auto", host="127.0.0.1", tls=None, address=None, request_seconds=60):
            ray.init(address="local", num_cpus=cpus, include_dashboard=False)
            try:
                yield
            finally:
                ray.shutdown()

    return run


@pytest.fixture(scope="module")  # Ray ends with it: other folders start their own
def service(bundles: dict[str, str], tmp_path_factory: pytest.TempPathFactory, local_ray: Any) -> Iterator[str]:
    from ray_jobs.listening import free_port
    from ray_jobs.serve import start
    from serve.settings import ModelSettings, ServiceSettings

    models = tuple(ModelSettings(name=name, bundle=bundle) for name, bundle in bundles.items())
    goldens = str(tmp_path_factory.mktemp("goldens"))
    settings = ServiceSettings(models=models, goldens_dir=goldens)
    with local_ray(2), start(settings, port=free_port()) as running:
        yield running.url


@pytest.fixture(scope="session")
def inspectors(bundles: dict[str, str]) -> dict[str, Any]:
    import changenet

    return {name: changenet.load(bundle) for name, bundle in bundles.items()}


def board(seed: int) -> bytes:
    """A picture unlike every other: random boxes."""
    random = np.random.default_rng(seed)
    picture = Image.new("RGB", (48, 40), tuple(random.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(picture)
    for _ in range(5):
        left, top = random.integers(0, 30, 2).tolist()
        width, height = random.integers(4, 18, 2).tolist()
        draw.rectangle((left, top, left + width, top + height), fill=tuple(random.integers(0, 256, 3).tolist()))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


class SlowRequest:
    """An inspection whose body stops short of its end until it is told to go on; a replica has it under way meanwhile."""

    def __init__(self, url: str, golden: bytes) -> None:
        noise = io.BytesIO()  # HAProxy keeps the first MiB to itself
        pixels = np.random.default_rng(1).integers(0, 256, (800, 800, 3), np.uint8)
        Image.fromarray(pixels).save(noise, "PNG", compress_level=0)
        files = {"test": noise.getvalue(), "golden": golden}
        self._whole = httpx.Request("POST", url, files=files)
        self._whole.read()
        self._sent, self._go_on = threading.Event(), threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._answer = self._thread.submit(self._send)
        assert self._sent.wait(60), "nobody takes it"

    def finish(self) -> httpx.Response:
        """Send the rest and return the answer."""
        self._go_on.set()
        self._thread.shutdown()
        return self._answer.result()

    def _send(self) -> httpx.Response:
        def body() -> Iterator[bytes]:
            yield self._whole.content[:-10]
            self._sent.set()
            self._go_on.wait()
            yield self._whole.content[-10:]

        return httpx.post(self._whole.url, content=body(), headers=self._whole.headers, timeout=120)


@pytest.fixture
def slow_request(pictures: list[bytes]) -> Callable[[str], SlowRequest]:
    """Return what begins a slow request to a URL."""
    return lambda url: SlowRequest(url, pictures[1])


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    return [board(seed) for seed in range(40)]
