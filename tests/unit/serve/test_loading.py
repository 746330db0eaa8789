"""Bundles that are whole, as their digests say, and wrong all the same: made by a faulty program, or by hand."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from changenet.bundle import MANIFEST, add_engine, read_bundle
from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.errors import CheckpointError, EngineError
from changenet.manifest import SELFTEST
from changenet.sealing import seal
from changenet.storage import sha256
from serve.loading import open_models
from serve.metrics import Metrics
from serve.settings import ModelSettings, ServiceSettings


def served(folder: Path):
    settings = ServiceSettings(models=(ModelSettings(name="pcb", bundle=str(folder)),))
    return open_models(settings, Metrics()).slots["pcb"].active


@pytest.fixture
def changed(bundle_folder: Path, tmp_path: Path):
    """Copies a bundle with another manifest or other files, whose digests are right."""

    def change(manifest=lambda _: None, **files: bytes) -> Path:
        folder = Path(shutil.copytree(bundle_folder, tmp_path / "changed"))
        values = json.loads((folder / MANIFEST).read_text())
        for name, content in files.items():
            (folder / name).write_bytes(content)
            at = values["selftest"] if name == SELFTEST else values["engines"][0]
            at["sha256"] = sha256(content) if name == SELFTEST else {**at["sha256"], name: sha256(content)}
        manifest(values)
        (folder / MANIFEST).write_text(json.dumps(values))
        return folder

    return change


def small_selftest() -> bytes:
    buffer = io.BytesIO()
    picture = np.zeros((2, 3, 8, 8), np.uint8)
    np.savez(buffer, test=picture, golden=picture, scores=np.zeros(2, np.float32))
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"no archive", small_selftest()], ids=["no-archive", "other-size"])
def test_a_self_test_that_cannot_be_run_is_one_line(changed, content: bytes) -> None:
    folder = changed(**{SELFTEST: content})
    with pytest.raises(CheckpointError, match=r"changed: .*Export the bundle again") as caught:
        served(folder)
    assert "pickle" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threshold", {"value": "0.5", "policy": "recall"}),
        ("threshold", {"value": float("nan"), "policy": "recall"}),
        ("validation_scores", {"edges": "x", "PASS": [1], "defect": [1]}),
        ("validation_scores", {"edges": [0, 1], "PASS": [1]}),
    ],
)
def test_what_every_inspection_needs_is_tried_before_the_first(changed, key: str, value: object) -> None:
    folder = changed(lambda values: values.update({key: {**values[key], **value} if key == "threshold" else value}))
    with pytest.raises(CheckpointError, match="changed"):
        served(folder)


def test_engines_that_are_added_leave_the_version(bundle_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle_folder, tmp_path / "bundle")
    before = read_bundle(folder)
    (entry,) = before.manifest.engines
    content = b"an engine"
    added = type(entry)("gpu", "tensorrt", "fp16", {"pair.engine": sha256(content)}, entry.parity)
    assert add_engine(before, added, {"pair.engine": content}).version == before.version
    assert read_bundle(folder).version == served(folder).version == before.version


def test_a_bundle_is_tried_with_one_pair_and_with_as_many_as_a_call_may_hold(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    compare = OnnxRuntimeEngine.compare

    def count(engine: OnnxRuntimeEngine, tests: Any, goldens: Any) -> Any:
        compared.append(len(tests[0]))
        if len(tests[0]) > 20:
            raise MemoryError
        return compare(engine, tests, goldens)

    monkeypatch.setattr(OnnxRuntimeEngine, "compare", count)
    assert served(bundle_folder)
    assert compared[-2:] == [1, ServiceSettings.model_fields["max_batch_size"].default]
    models = (ModelSettings(name="pcb", bundle=str(bundle_folder)),)
    with pytest.raises(EngineError, match=r"cannot compare 21 pairs at once .*Lower serve\.max_batch_size"):
        open_models(ServiceSettings(models=models, max_batch_size=21), Metrics())


def test_an_object_store_is_read_by_more_threads_than_a_folder(bundle_folder: Path) -> None:
    models = (ModelSettings(name="pcb", bundle=str(bundle_folder)),)
    near, far = (
        open_models(ServiceSettings(models=models, goldens_dir=folder), Metrics()).slots["pcb"].active.shared.readers
        for folder in (str(bundle_folder.parent / "none"), "memory://none/goldens")
    )
    assert near._max_workers < far._max_workers


def test_a_passphrase_may_lie_in_a_file(bundle_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sealed"
    seal(str(bundle_folder), "open sesame", target=str(folder))
    (tmp_path / "passphrase").write_text("open sesame\n")
    models = (ModelSettings(name="pcb", bundle=str(folder)),)
    settings = ServiceSettings(models=models, encryption_key_file=str(tmp_path / "passphrase"))
    sealed = open_models(settings, Metrics()).slots["pcb"].active
    assert sealed.facts().threshold == served(bundle_folder).facts().threshold
    with pytest.raises(CheckpointError, match="encrypted"):
        open_models(ServiceSettings(models=models), Metrics())
    with pytest.raises(ValueError, match="encryption_key and encryption_key_file are both given"):
        ServiceSettings(models=models, encryption_key="open sesame", encryption_key_file=str(tmp_path / "passphrase"))
