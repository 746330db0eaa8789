"""Files that are sealed after they were written, and opened again."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import changenet
from changenet.bundle import MANIFEST, read_bundle
from changenet.encryption import is_sealed, read_model
from changenet.engines.tensorrt_files import open_files, write_engine_file
from changenet.errors import CheckpointError
from changenet.sealing import seal, unseal
from changenet.signing import make_key_pair, sign
from changenet.tensorrt.tag import EngineTag

KEY = "horse staple"
TAG = EngineTag("tensorrt", "10.9", "8.9", "NVIDIA L4", "fp32", (2, 2, 3), {})


@pytest.fixture
def file(checkpoint_file: str, tmp_path: Path) -> Path:
    return Path(shutil.copy(checkpoint_file, tmp_path / "model.pth"))


@pytest.fixture
def bundle(bundle_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_checkpoint_is_sealed_in_its_place_and_comes_back(file: Path, pairs) -> None:
    before = file.read_bytes()
    expected = changenet.load(str(file)).score_arrays(*pairs)
    seal(str(file), KEY, overwrite=True)
    assert is_sealed(file)
    np.testing.assert_array_equal(changenet.load(str(file), encryption_key=KEY).score_arrays(*pairs), expected)
    for key in (None, "wrong"):
        with pytest.raises(CheckpointError, match="encrypt"):
            changenet.load(str(file), encryption_key=key)
    unseal(str(file), KEY, overwrite=True)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["model.pth"]


def test_the_note_beside_an_engine_goes_with_it(checkpoint, tmp_path: Path) -> None:
    engine, elsewhere, plain = (str(tmp_path / name) for name in ("pcb.engine", "out/pcb.engine", "pcb.plan"))
    write_engine_file(engine, b"plan" * 50, TAG, checkpoint.description)
    before = contents(tmp_path)
    seal(engine, KEY, target=elsewhere)
    assert contents(tmp_path / "out").keys() == {"pcb.engine", "pcb.engine.json"}
    seal(engine, KEY, overwrite=True)
    for path in (engine, elsewhere):
        assert is_sealed(path)
        files, _ = open_files(path, encryption_key=KEY)
        assert (files.read("pair.engine"), files.tag, files.description) == (b"plan" * 50, TAG, checkpoint.description)
    unseal(engine, KEY, overwrite=True)
    assert {name: content for name, content in contents(tmp_path).items() if name in before} == before
    Path(f"{plain}.json").write_text("mine")
    with pytest.raises(CheckpointError, match=r"pcb\.plan\.json: exists"):
        seal(engine, KEY, target=plain)
    assert not Path(plain).exists()


def test_nothing_is_replaced_unless_asked(file: Path, tmp_path: Path) -> None:
    before, other = file.read_bytes(), tmp_path / "other.pth"
    other.write_bytes(b"mine")
    for target in (None, str(other), str(file)):
        with pytest.raises(CheckpointError, match=r"exists\. Add --overwrite"):
            seal(str(file), KEY, target=target)
    assert (file.read_bytes(), other.read_bytes()) == (before, b"mine")
    seal(str(file), KEY, target=str(tmp_path / "new" / "sealed.pth"))
    assert file.read_bytes() == before
    assert read_model(tmp_path / "new" / "sealed.pth", KEY).read() == before


def test_a_wrong_key_or_a_changed_byte_leaves_the_file_as_it_is(file: Path) -> None:
    seal(str(file), KEY, overwrite=True)
    sealed = bytearray(file.read_bytes())
    with pytest.raises(CheckpointError, match="wrong encryption key"):
        unseal(str(file), "another", overwrite=True)
    sealed[len(sealed) // 2] ^= 1
    file.write_bytes(sealed)
    with pytest.raises(CheckpointError, match="or the file is damaged"):
        unseal(str(file), KEY, overwrite=True)
    assert file.read_bytes() == bytes(sealed)


def test_what_is_in_that_state_already_is_said(file: Path, bundle: Path) -> None:
    for path in (str(file), str(bundle)):
        with pytest.raises(CheckpointError, match="is not encrypted"):
            unseal(path, KEY, overwrite=True)
        seal(path, KEY, overwrite=True)
        with pytest.raises(CheckpointError, match="is encrypted already"):
            seal(path, KEY, overwrite=True)


def test_a_link_stays_and_what_it_names_is_sealed(file: Path) -> None:
    link = file.with_name("changenet_model_classify_latest.pth")
    link.symlink_to(file.name)
    assert seal(str(link), KEY, overwrite=True).target == str(file)
    assert link.is_symlink()
    assert is_sealed(file)


def test_missing_files_and_folders_without_a_manifest_are_named(tmp_path: Path) -> None:
    for change in (seal, unseal):
        with pytest.raises(CheckpointError, match=r"gone\.pth: no such file"):
            change(str(tmp_path / "gone.pth"), KEY)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.pth").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"is a folder, not a file. Name the file inside: a\.pth"):
        seal(str(tmp_path / "train"), KEY, overwrite=True)


def test_a_bundle_is_sealed_with_its_manifest_and_comes_back(bundle: Path, pairs) -> None:
    before = contents(bundle)
    expected = changenet.load(str(bundle)).score_arrays(*pairs)
    written = seal(str(bundle), KEY, overwrite=True)
    assert written.files == 4
    graphs = sorted(bundle.glob("*.onnx"))
    assert len(graphs) == 4
    assert all(map(is_sealed, graphs))
    assert read_bundle(bundle).encrypted
    inspector = changenet.load(str(bundle), encryption_key=KEY)
    np.testing.assert_array_equal(inspector.score_arrays(*pairs), expected)
    assert inspector.self_test() < 1e-4
    with pytest.raises(CheckpointError, match="there is no key"):
        changenet.load(str(bundle))
    unseal(str(bundle), KEY, overwrite=True)
    assert contents(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_bundle_may_be_sealed_into_another_folder(bundle: Path, tmp_path: Path) -> None:
    before = contents(bundle)
    seal(str(bundle), KEY, target=str(tmp_path / "sealed" / "bundle"))
    assert contents(bundle) == before
    assert read_bundle(tmp_path / "sealed" / "bundle").encrypted
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is no bundle"):
        seal(str(bundle), KEY, target=str(tmp_path / "notes"), overwrite=True)


def test_a_damaged_bundle_and_a_wrong_key_change_nothing(bundle: Path) -> None:
    seal(str(bundle), KEY, overwrite=True)
    before = contents(bundle)
    with pytest.raises(CheckpointError, match="wrong encryption key"):
        unseal(str(bundle), "another", overwrite=True)
    assert contents(bundle) == before
    (bundle / "pair.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"pair\.onnx: changed since it was written"):
        unseal(str(bundle), KEY, overwrite=True)


@pytest.mark.parametrize("name", ["pair.onnx", MANIFEST])
def test_a_single_file_of_a_bundle_is_refused(bundle: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"belongs to a bundle.*Give the bundle"):
        seal(str(bundle / name), KEY, overwrite=True)
    assert read_bundle(bundle)


def test_a_signature_of_the_files_before_is_dropped_and_said(bundle: Path, tmp_path: Path) -> None:
    make_key_pair(str(tmp_path / "line"))
    sign(bundle, (bundle / MANIFEST).read_bytes(), str(tmp_path / "line"))
    assert seal(str(bundle), KEY, overwrite=True).signature_lost
    with pytest.raises(CheckpointError, match="is not signed"):
        read_bundle(bundle, trusted_keys=[tmp_path / "line.pub"])
    sign(bundle, (bundle / MANIFEST).read_bytes(), str(tmp_path / "line"))
    assert read_bundle(bundle, trusted_keys=[tmp_path / "line.pub"]), "no passphrase is needed to verify"


def test_files_behind_a_uri(file: Path) -> None:
    seal(str(file), KEY, target="memory://sealing/model.pth")
    assert is_sealed("memory://sealing/model.pth")
    with pytest.raises(CheckpointError, match="--overwrite"):
        unseal("memory://sealing/model.pth", KEY)
    unseal("memory://sealing/model.pth", KEY, overwrite=True)
    assert read_model("memory://sealing/model.pth", None).read() == file.read_bytes()
