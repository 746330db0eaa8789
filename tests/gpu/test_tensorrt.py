"""TensorRT on a GPU: built here, run here. Skipped without a GPU or without a package that builds for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for package in ("onnxruntime", "onnxscript"):
    pytest.importorskip(package)
if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

from changenet.errors import EngineError  # noqa: E402
from changenet.tensorrt.package import import_tensorrt  # noqa: E402

try:
    import_tensorrt()
except EngineError as error:
    pytest.skip(str(error), allow_module_level=True)

from changenet.data.lights import PictureLayout  # noqa: E402
from changenet.description import ModelDescription, Threshold  # noqa: E402
from changenet.engines import load_engine  # noqa: E402
from changenet.export.onnx import export_bundle  # noqa: E402
from changenet.export.parity import make_pairs  # noqa: E402
from changenet.export.tensorrt import find_source, generate  # noqa: E402
from changenet.model.network import ChangeNet  # noqa: E402
from changenet.tensorrt.build import BuildSettings  # noqa: E402
from changenet.training.checkpoint import Checkpoint  # noqa: E402

SIDE = 64


@pytest.fixture(scope="module", params=["learnable", "euclidean"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    layout = PictureLayout(width=SIDE, height=SIDE)
    network = ChangeNet(
        backbone="timm/test_efficientnet", image_size=(SIDE, SIDE), embed_dim=8, difference_module=request.param
    )
    description = ModelDescription(network=network.arguments, layout=layout, threshold=Threshold(0.5))
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    export_bundle(Checkpoint(description, network.state_dict()), folder)
    return folder


@pytest.fixture
def built(bundle: Path, tmp_path: Path) -> Callable[..., Any]:
    """Builds the engines of the bundle; a GPU that the package does not serve skips the test."""

    def build(**changes: Any) -> tuple[Any, str]:
        path = str(tmp_path / "pcb.engine")
        settings = BuildSettings(**{"batch": (1, 2, 4), **changes})
        try:
            tests, goldens = make_pairs(8, (3, SIDE, SIDE), seed=9)
            pairs = zip(tests[:, None], goldens[:, None], strict=True)
            return generate(find_source(str(bundle)), settings, path, overwrite=True, validation=pairs), path
        except EngineError as error:
            if "cannot start" in str(error):
                pytest.skip(str(error))
            raise

    return build


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_engine_gives_the_scores_of_onnxruntime(bundle: Path, built: Callable[..., Any], precision: str) -> None:
    generated, path = built(precision=precision)
    assert generated.parity.agreement is not None
    assert set(generated.tag.pairs_per_second) == {"tensorrt", "onnxruntime"}
    assert generated.tag.gpu == torch.cuda.get_device_name()
    reference, _, _ = load_engine(str(bundle))
    tolerance = 1e-4 if precision == "fp32" else 0.1
    for engine in (load_engine(str(bundle), "tensorrt")[0], load_engine(path)[0]):
        engine.warm_up((3, SIDE, SIDE))
        assert engine.memory_bytes > 0
        for count in (1, 3, 11):  # more than the profile's largest batch
            pair = make_pairs(count, (3, SIDE, SIDE), seed=count)
            wanted = reference.score(*pair)
            np.testing.assert_allclose(engine.score(*pair), wanted, atol=tolerance * max(1, float(wanted.max())))


def test_auto_takes_what_was_faster_when_it_was_built(bundle: Path, built: Callable[..., Any]) -> None:
    generated, _ = built()
    speeds = generated.tag.pairs_per_second
    chosen = "tensorrt" if speeds["tensorrt"] >= speeds["onnxruntime"] else "onnxruntime"
    assert load_engine(str(bundle))[0].name == chosen
    assert load_engine(str(bundle), device="cpu")[0].name == "onnxruntime"


def test_kept_goldens_give_the_same_scores(bundle: Path, built: Callable[..., Any]) -> None:
    built()
    engine, _, _ = load_engine(str(bundle), "tensorrt")
    test, golden = make_pairs(5, (3, SIDE, SIDE), seed=4)
    halves = engine.prepare_golden(engine.encode(golden))
    kept = engine.compare(engine.encode(test), halves)
    np.testing.assert_allclose(kept, engine.output(test, golden), atol=1e-5)


def test_a_timing_cache_is_written_and_read(bundle: Path, built: Callable[..., Any], tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    for _ in range(2):
        generate(
            find_source(str(bundle)),
            BuildSettings(),
            str(tmp_path / "a.engine"),
            timing_cache=str(cache),
            overwrite=True,
        )
    assert cache.stat().st_size > 0
