"""Fixtures of every test: a small data set of real PNG files, and where real data lies."""

from __future__ import annotations

import copy
import csv
import importlib.util
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

os.environ["RAY_AUTH_MODE"] = "disabled"  # else Ray writes a token into the home folder
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["GOMP_SPINCOUNT"] = "20000"

SIDE = 32
LABELS = ("PASS", "PASS", "missing", "PASS", "PASS", "bridge")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undoes what a command did to logging in this process: tests in any order see the same records."""
    loggers = [logging.getLogger(name) for name in (None, "changenet", "ray_jobs", "serve")]
    levels, handlers = [each.level for each in loggers], list(loggers[0].handlers)
    yield
    for each, level in zip(loggers, levels, strict=True):
        each.setLevel(level)
    for handler in set(loggers[0].handlers).difference(handlers):
        loggers[0].removeHandler(handler)


def _picture(random: np.random.Generator, *, base: np.ndarray, defect: bool) -> Image.Image:
    pixels = base.astype(np.int16) + random.integers(-8, 9, base.shape)
    if defect:
        pixels[8:24, 8:24] = 250
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images/` and `train.csv`, `val.csv`, `test.csv`, `infer.csv`: 24 pairs of 32 px each, a third of them with a bright
    square where the golden has none.
    """
    folder = tmp_path_factory.mktemp("pairs")
    random = np.random.default_rng(7)
    for split in ("train", "val", "test", "infer"):
        rows = []
        for number in range(24):
            label, name = LABELS[number % len(LABELS)], f"{split}{number:03d}"
            base = random.integers(40, 120, (SIDE, SIDE, 3), dtype=np.uint8)
            for kind in ("test", "golden"):
                (folder / "images" / kind).mkdir(parents=True, exist_ok=True)
                picture = _picture(random, base=base, defect=kind == "test" and label != "PASS")
                picture.save(folder / "images" / kind / f"{name}.png", compress_level=1)
            rows.append(("test", "golden", label, name))
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("input_path", "golden_path", "label", "object_name"))
            writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket of moto's server, S3's own HTTP interface in this process; processes that start later reach it, too."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").clear_instance_cache()
        name = f"boards-{uuid.uuid4().hex}"  # the servers of a process share what they hold
        fsspec.filesystem("s3").mkdir(name)
        yield f"s3://{name}"
    server.stop()


@pytest.fixture
def write_spec(pair_folder: Path, tmp_path: Path) -> Callable[..., str]:
    """Writes a spec over `pair_folder` with a tiny encoder; keyword arguments are dotted keys with `__` for the dot."""

    def write(**changes: Any) -> str:
        splits = {"train": "train", "validation": "val", "test": "test", "infer": "infer"}
        spec: dict[str, Any] = {
            "task": "classify",
            "results_dir": str(tmp_path / "results"),
            "model": {
                "backbone": {"type": "timm/test_efficientnet"},
                "decode_head": {"decoder_params": {"embed_dim": 16}},
            },
            "dataset": {
                "classify": {
                    **{
                        f"{split}_dataset": {
                            "csv_path": str(pair_folder / f"{name}.csv"),
                            "images_dir": str(pair_folder / "images"),
                        }
                        for split, name in splits.items()
                    },
                    "image_ext": ".png",
                    "image_width": SIDE,
                    "image_height": SIDE,
                    "batch_size": 8,
                    "workers": 0,
                    "fpratio_sampling": 1.0,
                }
            },
            "train": {"num_epochs": 2, "optim": {"lr": 0.003, "weight_decay": 0.01}, "tensorboard": {"enabled": True}},
        }
        for dotted, value in changes.items():
            *parents, name = dotted.split("__")
            section = spec
            for parent in parents:
                section = section.setdefault(parent, {})
            section[name] = value
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(spec), encoding="utf-8")
        return str(path)

    return write


TAO_SPEC: dict[str, Any] = {
    "model": {
        "backbone": {"type": "fan_tiny_8_p4_hybrid"},
        "decode_head": {"decoder_params": {"embed_dim": 8}},
        "classify": {"difference_module": "learnable", "learnable_difference_modules": 2, "embed_dec": 6},
    },
    "dataset": {"classify": {"image_width": SIDE, "image_height": SIDE, "image_ext": ".png"}},
}


@pytest.fixture
def tao_spec() -> dict[str, Any]:
    """The spec of the network that `tao_state` belongs to."""
    return copy.deepcopy(TAO_SPEC)


@pytest.fixture(scope="session")
def tao_state() -> dict[str, Any]:
    """The tensors of a TAO checkpoint of a small network: fan_tiny, learnable, two levels of width 8, one light of 32 px."""
    folder = Path(__file__).parent / "parity"
    found = importlib.util.spec_from_file_location("changenet_parity_cases", folder / "parity.py")
    assert found is not None
    assert found.loader is not None
    parity = importlib.util.module_from_spec(found)
    found.loader.exec_module(parity)
    smaller = {256: 8, 512: 16, 30: 6}

    def shape(name: str, recorded: list[int]) -> list[int]:
        if name.startswith("backbone."):
            return recorded
        if name == "decoder.classifier.0.weight":
            return [6, 8 * (SIDE // 4) ** 2]
        if name.endswith(".proj.weight"):
            return [8, recorded[1]]
        return [smaller.get(size, size) for size in recorded]

    case = parity.load_cases()["fan_tiny_learnable_modules2"]
    tensors = [[name, shape(name, recorded), kind] for name, recorded, kind in case["tensors"]]
    state: dict[str, Any] = parity.weights({"tensors": tensors}, prefix="model.")
    return state


@pytest.fixture
def write_tao(tao_state: dict[str, Any], tmp_path: Path) -> Callable[..., str]:
    """Writes a file as TAO's trainer does; keyword arguments lie beside the tensors (None: leave that entry out)."""

    def write(name: str = "model_epoch_009_step_00100.pth", **beside: Any) -> str:
        import torch

        content = {
            "epoch": 9,
            "global_step": 100,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": {**tao_state, "criterion.weight": torch.tensor([1.0, 10.0])},
            "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}],
            "callbacks": {"ModelCheckpoint": {"dirpath": PurePosixPath("/results/train")}},
            "tao_model": "visual_changenet_classify",
            **beside,
        }
        torch.save({key: value for key, value in content.items() if value is not None}, tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real board pictures (`CHANGENET_REAL_DATA`); the test is skipped without it."""
    folder = Path(os.environ.get("CHANGENET_REAL_DATA", "../shared/data"))
    if not (folder / "deeppcb").is_dir():
        pytest.skip("no real data: set CHANGENET_REAL_DATA")
    return folder


@pytest.fixture
def self_signed(tmp_path: Path) -> Callable[[str], tuple[str, str]]:
    """Writes a certificate for an address or a name, and its private key; returns both paths."""

    def write(name: str) -> tuple[str, str]:
        import datetime
        import ipaddress

        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        is_address = name.replace(".", "").isdigit()
        names = [x509.IPAddress(ipaddress.ip_address(name)) if is_address else x509.DNSName(name)]
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, SHA256())
        )
        files = tmp_path / f"{name}.crt", tmp_path / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(files[0]), str(files[1])

    return write
