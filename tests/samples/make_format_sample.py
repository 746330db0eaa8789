"""Write `format_N.zip`: a checkpoint and a bundle of the current formats, for the test that reads all old ones.

Run it once for each new format version, from the root of the repository, and commit the file:

    python tests/samples/make_format_sample.py
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch

from changenet.data.lights import PictureLayout
from changenet.description import ModelDescription, Threshold
from changenet.engines import load_engine
from changenet.export.onnx import export_bundle
from changenet.manifest import FORMAT_VERSION
from changenet.model.network import ChangeNet
from changenet.training.checkpoint import Checkpoint, load_checkpoint, package_versions, save_checkpoint

LIGHTS = ("Solder", "White")
SIDE = 32


def main() -> None:
    torch.manual_seed(0)
    layout = PictureLayout(lights=LIGHTS, width=SIDE, height=SIDE)
    network = ChangeNet(backbone="timm/test_efficientnet", image_size=layout.shape[1:], embed_dim=8, embed_dec=8)
    for tensor in network.state_dict().values():
        if tensor.ndim > 1:
            tensor.copy_((tensor * 32).round() / 32)  # few different values: the file compresses well
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (2, 3, 3, 2 * SIDE // 16, SIDE // 16), dtype=np.uint8)
    test, golden = coarse.repeat(16, axis=-1).repeat(16, axis=-2)
    pictures = network.normalise(torch.from_numpy(np.stack([test, golden])))
    last = network.head.layers[-1]
    with torch.no_grad():  # statistics and a last layer as training leaves them, so that scores differ
        for _ in range(50):
            network(*pictures)
        output = network.eval()(*pictures)
        last.weight.div_(output.std())
        last.bias.copy_(-output.mean(dim=0) / output.std() + last.bias / output.std())
    description = ModelDescription(
        network=network.arguments,
        layout=layout,
        threshold=Threshold(0.25, "recall", 1.0, (0.9, 1.0)),
        image_ext=".png",
        versions=package_versions(),
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_checkpoint(str(folder / "checkpoint.pth"), Checkpoint(description, network.state_dict()))
        export_bundle(load_checkpoint(str(folder / "checkpoint.pth")), folder / "bundle")
        engine, _, _ = load_engine(str(folder / "checkpoint.pth"))
        expected = {
            "test": test.tolist(),
            "golden": golden.tolist(),
            "scores": engine.score(test, golden).tolist(),
            "threshold": 0.25,
            "lights": LIGHTS,
        }
        (folder / "expected.json").write_text(json.dumps(expected))
        archive = Path(__file__).with_name(f"format_{FORMAT_VERSION}.zip")
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as files:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    files.write(path, path.relative_to(folder))
        print(f"{archive}: {archive.stat().st_size / 1e3:.0f} kB; scores {expected['scores']}")  # noqa: T201


if __name__ == "__main__":
    main()
