"""Bundles: whole or not at all, verified before use, readable for years."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from changenet import storage
from changenet.bundle import MANIFEST, is_bundle, read_bundle, write_bundle
from changenet.encryption import is_sealed
from changenet.engines import load_engine
from changenet.errors import CheckpointError
from changenet.export import onnx as onnx_export
from changenet.manifest import Manifest
from changenet.storage import sha256

SAMPLES = Path(__file__).parents[1] / "samples"
GRAPHS = {"pair.onnx", "encoder.onnx", "golden.onnx", "comparator.onnx"}


@pytest.fixture
def copy(bundle_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))


def edit(folder: Path, **changes) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(values | changes))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_manifest(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if name != MANIFEST}


def test_manifest_has_the_documented_fields(bundle_folder: Path, checkpoint) -> None:
    values = json.loads((bundle_folder / MANIFEST).read_text())
    assert values["format_version"] == 1
    assert values["task"] == "classify"
    assert values["difference_module"] == "learnable"
    assert values["classes"] == ["PASS", "defect"]
    wanted = {"lights": [""], "concat": "linear", "size": [32, 32], "channels": 3, "mean": [0.485, 0.456, 0.406]}
    assert {key: values["input"][key] for key in wanted} == wanted
    assert values["num_golden"] == 1
    assert values["threshold"] == {"value": 0.5, "policy": "recall", "target": 1.0, "interval": [0.9, 1.0]}
    assert values["validation_scores"]["defect"] == [0, 4]
    (engine,) = values["engines"]
    assert set(engine) == {"name", "runtime", "precision", "files", "sha256", "parity"}
    assert set(engine["files"]) == set(engine["sha256"]) == GRAPHS
    assert engine["parity"]["agreement"] is None
    assert set(values["provenance"]) >= {"spec_sha256", "data_sha256", "metrics"}
    assert set(values["versions"]) == {"trained", "exported"}


def test_manifest_keeps_the_whole_description(bundle_folder: Path, checkpoint) -> None:
    manifest = read_bundle(bundle_folder).manifest
    assert manifest.description == checkpoint.description
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest


def test_the_version_follows_threshold_and_weights(copy: Path) -> None:
    before = read_bundle(copy).version
    assert len(before) == 12
    values = json.loads((copy / MANIFEST).read_text())
    edit(copy, threshold=values["threshold"] | {"value": 0.25})
    assert read_bundle(copy).version != before


@pytest.mark.parametrize("name", sorted(GRAPHS | {"selftest.npz"}))
def test_a_changed_file_is_named(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: changed since it was written"):
        read_bundle(copy)


def test_all_missing_files_are_named_at_once(copy: Path) -> None:
    (copy / "pair.onnx").unlink()
    (copy / "golden.onnx").unlink()
    with pytest.raises(CheckpointError) as caught:
        read_bundle(copy)
    assert len(caught.value.problems) == 2
    assert "golden.onnx: a file of this bundle is missing" in str(caught.value)


def test_files_that_the_manifest_does_not_list_are_named_but_for_hidden_ones(copy: Path) -> None:
    (copy / ".DS_Store").write_bytes(b"x")
    assert read_bundle(copy)
    (copy / "encoder.onnx.data").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"encoder\.onnx\.data: is not listed in the manifest\. Remove it"):
        read_bundle(copy)


def test_a_newer_format_is_refused_politely(copy: Path) -> None:
    edit(copy, format_version=2)
    with pytest.raises(CheckpointError, match=r"format version 2; this program reads up to 1\. Upgrade changenet"):
        read_bundle(copy)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"format": "changenet-bundle"}', '{"format": "other"}'])
def test_a_damaged_manifest_is_one_clear_error(copy: Path, text: str) -> None:
    (copy / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_bundle(copy)
    assert len(caught.value.problems) == 1


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert not is_bundle(tmp_path)
    with pytest.raises(CheckpointError, match="not a bundle"):
        read_bundle(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", ".."])
def test_a_manifest_cannot_name_files_outside(copy: Path, name: str) -> None:
    values = json.loads((copy / MANIFEST).read_text())
    engine = values["engines"][0]
    engine["files"].append(name)
    engine["sha256"][name] = sha256(b"")
    edit(copy, engines=[engine])
    with pytest.raises(CheckpointError, match="outside the bundle"):
        read_bundle(copy)


def test_an_earlier_bundle_is_replaced_whole_and_only_on_request(bundle_folder: Path, copy: Path) -> None:
    (copy / "leftover.trt").write_bytes(b"of an older version")
    manifest, files = read_bundle(bundle_folder).manifest, without_manifest(bundle_folder)
    with pytest.raises(CheckpointError, match="--overwrite"):
        write_bundle(copy, manifest, files)
    assert (copy / "leftover.trt").exists()
    write_bundle(copy, manifest, files, overwrite=True)
    assert contents(copy) == contents(bundle_folder)
    assert [path.name for path in copy.parent.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_never_replaced(bundle_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    manifest, files = read_bundle(bundle_folder).manifest, without_manifest(bundle_folder)
    with pytest.raises(CheckpointError, match="exists and is no bundle"):
        write_bundle(tmp_path, manifest, files, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_bundle_may_live_behind_a_uri(bundle_folder: Path, pairs) -> None:
    uri = "memory://models/pcb"
    write_bundle(uri, read_bundle(bundle_folder).manifest, without_manifest(bundle_folder))
    engine, _, bundle = load_engine(uri)
    assert bundle is not None
    assert bundle.version == read_bundle(bundle_folder).version
    assert engine.score(*pairs).shape == (5,)
    with pytest.raises(CheckpointError, match="--overwrite"):
        write_bundle(uri, bundle.manifest, without_manifest(bundle_folder))
    storage.write_text(f"{uri}/older.onnx", "of an earlier export")
    write_bundle(uri, bundle.manifest, without_manifest(bundle_folder), overwrite=True)
    assert set(storage.names_inside(uri)) == set(contents(bundle_folder))


def test_selftest_pairs_are_distinct(bundle_folder: Path) -> None:
    stored = read_bundle(bundle_folder).selftest()
    assert stored.test.shape == stored.golden.shape == (2, 3, 32, 32)
    assert stored.scores.shape == (2,)
    assert not np.array_equal(stored.test, stored.golden)


def test_an_encrypted_bundle_opens_with_its_key_alone(
    bundle_folder: Path, checkpoint, tmp_path: Path, monkeypatch, pairs
) -> None:
    graphs = {path.name: path.read_bytes() for path in bundle_folder.glob("*.onnx")}
    monkeypatch.setattr(onnx_export, "export_graphs", lambda *_, **__: graphs)
    folder, model = tmp_path / "bundle", tmp_path / "model.onnx"
    onnx_export.export_bundle(checkpoint, folder, onnx_file=model, encryption_key="secret")
    for path in [model, *folder.glob("*.onnx")]:
        assert path.read_bytes().startswith(b"\x89CHGNET"), path.name
    # What is no model stays readable: pairs of noise with their scores, and the facts of the manifest.
    assert {path.name for path in folder.iterdir() if not is_sealed(path)} == {MANIFEST, "selftest.npz"}
    assert b"secret" not in (folder / MANIFEST).read_bytes()
    assert read_bundle(folder).encrypted
    assert not read_bundle(bundle_folder).encrypted
    engine, _, _ = load_engine(str(folder), encryption_key="secret")
    plain, _, _ = load_engine(str(bundle_folder))
    np.testing.assert_array_equal(engine.score(*pairs), plain.score(*pairs))
    for key in (None, "wrong"):
        with pytest.raises(CheckpointError, match="encrypt"):
            load_engine(str(folder), encryption_key=key)
    assert "secret" not in repr(read_bundle(folder, encryption_key="secret"))


@pytest.mark.parametrize("kind", ["checkpoint.pth", "bundle"])
def test_files_of_every_released_format_are_still_read(kind: str, tmp_path: Path) -> None:
    for archive in sorted(SAMPLES.glob("format_*.zip")):
        folder = tmp_path / archive.stem
        with zipfile.ZipFile(archive) as files:
            files.extractall(folder)
        wanted = json.loads((folder / "expected.json").read_text())
        engine, description, _ = load_engine(str(folder / kind))
        test = np.asarray(wanted["test"], np.uint8)
        golden = np.asarray(wanted["golden"], np.uint8)
        np.testing.assert_allclose(engine.score(test, golden), wanted["scores"], atol=1e-4)
        assert description.threshold.value == wanted["threshold"]
        assert description.layout.lights == tuple(wanted["lights"])
