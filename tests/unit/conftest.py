"""A tiny trained-looking network, as a checkpoint and as an exported bundle, shared by all unit tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SIDE = 32
SEVERAL_SIDE = 224  # several goldens: levels whose sides are multiples of 7


def _checkpoint(**changes: Any) -> Any:
    import torch

    from changenet.data.lights import PictureLayout
    from changenet.description import BINARY_CLASSES, ModelDescription, Threshold
    from changenet.model.network import ChangeNet
    from changenet.training.checkpoint import Checkpoint

    lights = changes.pop("lights", ("",))
    classes = changes.pop("classes", BINARY_CLASSES)
    goldens = changes.get("num_golden", 1)
    dead = slice(changes.pop("dead_units", 0))
    side = SIDE if goldens == 1 else SEVERAL_SIDE
    layout = PictureLayout(lights=lights, width=side, height=side)
    torch.manual_seed(3)
    network = ChangeNet(
        **{
            "backbone": "timm/test_efficientnet",
            "image_size": layout.shape[1:],
            "num_classes": len(classes),
            "multiclass": classes != BINARY_CLASSES,
            "embed_dim": 8,
            "embed_dec": 8,
            **changes,
        }
    )
    # Statistics and a last layer as training leaves them: otherwise all scores are about the same.
    count, passes = (16, 20) if goldens == 1 else (4, 5)
    shape = (count, *layout.shape)
    pictures = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    test, golden = network.normalise(pictures), network.normalise(pictures.roll(1, 0))
    if goldens > 1:
        golden = torch.stack([test.roll(number + 1, 0) for number in range(goldens)], dim=1)
    with torch.no_grad():
        network.head.layers[0].bias[dead] = -1000
        for _ in range(passes):
            network.train()(test, golden)
        network.head.layers[2].running_var[dead] = 0  # as after a long training
        output = network.eval()(test, golden)
        if output.ndim == 2:
            last, scale = network.head.layers[-1], 2 / output.std()
            last.weight.mul_(scale)
            last.bias.copy_((last.bias - output.mean(dim=0)) * scale)
    description = ModelDescription(
        network=network.arguments,
        layout=layout,
        threshold=Threshold(0.5, "recall", 1.0, (0.9, 1.0)),
        classes=classes,
        num_golden=goldens,
        image_ext=".png",
        validation_scores={"edges": [0.0, 0.5, 1.0], "PASS": [9, 0], "defect": [0, 4]},
        spec={"task": "classify"},
        metrics={"auroc": 0.99},
        versions={"torch": "2"},
        data_hash="0" * 64,
    )
    return Checkpoint(description, network.state_dict())


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Any]:
    """Return a function that makes a `Checkpoint` of a tiny network; arguments are those of `ChangeNet`; `dead_units` of the head are always 0."""
    return _checkpoint


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[..., Any]) -> Any:
    return make_checkpoint()


@pytest.fixture(scope="session")
def checkpoint_file(checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    from changenet.training.checkpoint import save_checkpoint

    path = str(tmp_path_factory.mktemp("checkpoint") / "model_best.pth")
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture(scope="session")
def parts(checkpoint: Any) -> Any:
    """Return the traced pieces of the tiny network."""
    from changenet.export.trace import trace_parts
    from changenet.training.checkpoint import build_network

    return trace_parts(build_network(checkpoint))


@pytest.fixture(scope="session")
def bundle_folder(checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported bundle, with `model.onnx` beside it; tests that change it work on a copy."""
    from changenet.export.onnx import export_bundle

    folder = tmp_path_factory.mktemp("export") / "bundle"
    export_bundle(checkpoint, folder, onnx_file=folder.with_name("model.onnx"))
    return folder


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Return five tests and goldens, uint8 (5, 3, 32, 32)."""
    generator = np.random.default_rng(11)
    test, golden = generator.integers(0, 256, (2, 5, 3, SIDE, SIDE), dtype=np.uint8)
    return test, golden


@pytest.fixture(scope="session")
def round_by_modelopt() -> Callable[..., Any]:
    """Return a function that rounds the layers of a checkpoint with ModelOpt (with entropy two of them): the network, and the quantized checkpoint."""

    def rounded(checkpoint: Any, test: Any, golden: Any, *, dtype: str = "int8", entropy: bool = False) -> Any:
        import torch

        from changenet.model.merging import merged
        from changenet.quantization import modelopt
        from changenet.quantization.file import QuantizedCheckpoint
        from changenet.quantization.layers import static_candidates
        from changenet.training.checkpoint import build_network

        network = merged(build_network(checkpoint))
        layers = dict.fromkeys(static_candidates(network, modelopt.quantizable), dtype)
        if entropy:  # it takes many seconds a layer
            layers = {name: layers[name] for name in ("backbone.model.conv_stem", "head.layers.0")}

        def run(_: Any) -> None:
            network(*(network.normalise(torch.from_numpy(pictures)) for pictures in (test, golden)))

        done = modelopt.quantize_layers(network, layers, run, entropy=entropy)
        state = modelopt.take_apart(network)
        return network, QuantizedCheckpoint(
            checkpoint.description, "modelopt.pytorch", done, {}, 0.99, "0" * 64, state=state
        )

    return rounded
