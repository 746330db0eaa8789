"""TensorRT on a cluster: what is wrong on the machine with the GPU is one line on the machine without."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml
from typer.testing import CliRunner

from changenet.data.lights import PictureLayout
from changenet.description import ModelDescription, Threshold
from changenet.engines.tensorrt_files import write_engine_file
from changenet.tensorrt.tag import EngineTag
from ray_jobs import cluster
from ray_jobs.cli import app

pytestmark = pytest.mark.slow


@pytest.fixture
def ray_with_a_gpu() -> Iterator[None]:
    """A node that says it has a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**cluster.ENVIRONMENT, "RAY_AUTH_MODE": "disabled"}.items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.mark.usefixtures("ray_with_a_gpu")
def test_an_engine_of_a_package_that_the_worker_lacks_ends_with_2(pair_folder: Path, tmp_path: Path) -> None:
    network = {
        "difference_module": "learnable",
        "backbone": "timm/test_efficientnet",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    layout = PictureLayout(width=32, height=32)
    description = ModelDescription(network=network, layout=layout, threshold=Threshold(0.5), image_ext=".png")
    engine = str(tmp_path / "pcb.engine")
    write_engine_file(engine, b"plan", EngineTag("tensorrt_none", "1", "8.9", None, "fp16", (1, 1, 8), {}), description)
    data = {"csv_path": str(pair_folder / "test.csv"), "images_dir": str(pair_folder / "images")}
    spec = tmp_path / "spec.yaml"
    values = {
        "results_dir": str(tmp_path / "results"),
        "dataset": {"classify": {"test_dataset": data}},
        "evaluate": {"trt_engine": engine},
    }
    spec.write_text(yaml.safe_dump(values))
    done = CliRunner().invoke(app, ["evaluate", "-e", str(spec)])
    assert done.exit_code == 2, done.output
    (line,) = [each for each in done.stderr.splitlines() if each.startswith("error:")]
    assert line.startswith("error: the package tensorrt-none is not installed")
