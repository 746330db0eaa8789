"""Signed bundles: only what a trusted key vouched for is loaded, and only as it was."""

import json
import shutil
from pathlib import Path

import pytest

import changenet
from changenet import signing
from changenet.bundle import MANIFEST, read_bundle, write_bundle
from changenet.errors import CheckpointError
from changenet.signing import SIGNATURE, make_key_pair, read_public_key, sign
from changenet.storage import sha256


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the key pairs `line` and `other`."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("line", "other"):
        make_key_pair(str(folder / name))
    return folder


@pytest.fixture
def signed(bundle_folder: Path, keys: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))
    sign(folder, (folder / MANIFEST).read_bytes(), str(keys / "line"))
    return folder


def refused(folder: Path, *trusted: object, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        read_bundle(folder, trusted_keys=trusted)  # type: ignore[arg-type]
    (problem,) = caught.value.problems
    assert problem.fix
    assert "\n" not in str(problem)


def test_a_signed_bundle_loads_with_one_of_the_trusted_keys(signed: Path, keys: Path, pairs) -> None:
    inspector = changenet.load(str(signed), trusted_keys=[keys / "other.pub", keys / "line.pub"])
    assert len(inspector.score_arrays(*pairs)) == 5
    text = (keys / "line.pub").read_text()
    assert read_bundle(signed, trusted_keys=[text]).version == read_bundle(signed).version


def test_a_signature_is_looked_at_only_when_it_is_demanded(signed: Path) -> None:
    (signed / SIGNATURE).write_text("nonsense")
    assert read_bundle(signed)


def test_an_unsigned_bundle_is_refused(bundle_folder: Path, keys: Path) -> None:
    refused(bundle_folder, keys / "line.pub", words="is not signed, and a signature is demanded")


def test_another_key_is_refused_by_name(signed: Path, keys: Path) -> None:
    mark = signing.fingerprint(read_public_key(keys / "line.pub"))
    refused(signed, keys / "other.pub", words=f"signed with the key {mark}, which is not trusted here")


def test_a_signature_that_claims_a_trusted_key_is_refused(bundle_folder: Path, keys: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))
    sign(folder, (folder / MANIFEST).read_bytes(), str(keys / "other"))
    values = json.loads((folder / SIGNATURE).read_text())
    values["key"] = signing.fingerprint(read_public_key(keys / "line.pub"))
    (folder / SIGNATURE).write_text(json.dumps(values))
    refused(folder, keys / "line.pub", words="the manifest is not the one that was signed")


def test_any_change_of_the_manifest_is_found(signed: Path, keys: Path) -> None:
    content = (signed / MANIFEST).read_bytes()
    threshold = json.loads(content)
    threshold["threshold"]["value"] = 0.99
    for changed in (content + b" ", json.dumps(threshold).encode()):
        (signed / MANIFEST).write_bytes(changed)
        assert read_bundle(signed)  # it is only the signature that finds it
        refused(signed, keys / "line.pub", words="the manifest is not the one that was signed")


def test_a_graph_that_was_replaced_together_with_its_digest_is_found(signed: Path, keys: Path) -> None:
    graph = (signed / "pair.onnx").read_bytes()
    (signed / "encoder.onnx").write_bytes(graph)
    refused(signed, keys / "line.pub", words="encoder.onnx: changed since it was written")
    values = json.loads((signed / MANIFEST).read_text())
    values["engines"][0]["sha256"]["encoder.onnx"] = sha256(graph)
    (signed / MANIFEST).write_text(json.dumps(values))
    assert read_bundle(signed)
    refused(signed, keys / "line.pub", words="not the one that was signed")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "manifest.sig: is damaged"),
        ("[]", "is damaged"),
        ('{"format": "other"}', "is no signature"),
        ('{"format": "changenet-signature", "format_version": 2}', "reads up to 1. Upgrade changenet"),
        ('{"format": "changenet-signature", "format_version": 1, "key": "a", "signature": "?"}', "is damaged"),
    ],
)
def test_damaged_and_newer_signatures_are_one_clear_error(signed: Path, keys: Path, content: str, words: str) -> None:
    (signed / SIGNATURE).write_text(content)
    refused(signed, keys / "line.pub", words=words)


def test_trusted_keys_that_are_none_are_errors(signed: Path, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key")
    for key, words in (
        (keys / "gone.pub", "there is no such key file"),
        (keys / "line", "is a private key"),
        (tmp_path / "text", "is not a public key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "trusted key: is not a public key"),
        (_elliptic(tmp_path, private=False), "is not an Ed25519 key"),
    ):
        refused(signed, key, words=words)


def test_private_keys_that_are_none_are_errors(signed: Path, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key")
    for key, words in (
        (keys / "gone", "there is no such key file"),
        (keys / "line.pub", "is a public key"),
        (tmp_path / "text", "is not a private key"),
        (_elliptic(tmp_path, private=True), "is not an Ed25519 key"),
        (_locked(tmp_path), "with a passphrase"),
    ):
        with pytest.raises(CheckpointError, match=words):
            sign(signed, b"", str(key), overwrite=True)


def test_a_checkpoint_cannot_meet_the_demand(checkpoint_file: str, keys: Path) -> None:
    with pytest.raises(CheckpointError, match="is no bundle, and a signature is demanded"):
        changenet.load(checkpoint_file, trusted_keys=[keys / "line.pub"])


def test_a_bundle_that_is_written_anew_has_no_old_signature(signed: Path, bundle_folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in bundle_folder.iterdir() if path.name != MANIFEST}
    manifest = read_bundle(bundle_folder).manifest
    write_bundle(signed, manifest, files, overwrite=True)
    assert not (signed / SIGNATURE).exists()


def test_bundles_behind_a_uri_are_signed_likewise(bundle_folder: Path, keys: Path) -> None:
    uri = "memory://signed/pcb"
    files = {path.name: path.read_bytes() for path in bundle_folder.iterdir() if path.name != MANIFEST}
    manifest = read_bundle(bundle_folder).manifest
    write_bundle(uri, manifest, files)
    sign(uri, (bundle_folder / MANIFEST).read_bytes(), str(keys / "line"))
    assert read_bundle(uri, trusted_keys=[keys / "line.pub"])
    write_bundle(uri, manifest, files, overwrite=True)
    with pytest.raises(CheckpointError, match="is not signed"):
        read_bundle(uri, trusted_keys=[keys / "line.pub"])


def test_a_private_key_is_its_owners_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "line"
    mark = make_key_pair(str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in (tmp_path / "new" / "line.pub").read_bytes()
    assert signing.fingerprint(read_public_key(tmp_path / "new" / "line.pub")) == mark
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="line: exists"):
        make_key_pair(str(path))
    path.unlink()
    with pytest.raises(CheckpointError, match=r"line\.pub: exists"):
        make_key_pair(str(path))
    assert not path.exists()
    make_key_pair(str(tmp_path / "another"))
    assert (tmp_path / "another").read_bytes() != before


def _elliptic(folder: Path, *, private: bool) -> Path:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    return _write(folder / "ec", generate_private_key(SECP256R1()), private=private)


def _locked(folder: Path) -> Path:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return _write(folder / "locked", Ed25519PrivateKey.generate(), private=True, passphrase=b"horse")


def _write(path: Path, key, *, private: bool, passphrase: bytes | None = None) -> Path:
    from cryptography.hazmat.primitives import serialization as form

    if private:
        lock = form.BestAvailableEncryption(passphrase) if passphrase else form.NoEncryption()
        path.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock))
    else:
        path.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return path
