"""`changenet keys`, `changenet sign`, and a service that demands a signature."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from changenet.bundle import MANIFEST, read_bundle
from changenet.errors import CheckpointError
from changenet.signing import SIGNATURE
from ray_jobs.cli import app
from serve.loading import open_models
from serve.metrics import Metrics
from serve.settings import ModelSettings, ServiceSettings


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def error_of(answer: Result) -> str:
    assert answer.exit_code == 2, answer.output
    (line,) = answer.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture
def key(tmp_path: Path) -> Path:
    assert run("keys", tmp_path / "line").exit_code == 0
    return tmp_path / "line"


@pytest.fixture
def signed(bundle_folder: Path, tmp_path: Path, key: Path) -> Path:
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))
    assert run("sign", folder, "--key-file", key).exit_code == 0
    return folder


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port that is in use: a service whose bundles are all right fails for it alone, before Ray starts."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_pair_of_keys_is_made_once(tmp_path: Path) -> None:
    answer = run("keys", tmp_path / "line")
    assert answer.exit_code == 0
    assert "line.pub" in answer.stdout
    assert "PRIVATE" not in answer.output
    assert "line: exists" in error_of(run("keys", tmp_path / "line"))


def test_signing_names_the_key_and_replaces_only_when_asked(signed: Path, key: Path) -> None:
    before = (signed / SIGNATURE).read_bytes()
    assert "is signed already. Add --overwrite" in error_of(run("sign", signed, "--key-file", key))
    answer = run("sign", signed, "--key-file", key, "--overwrite")
    assert answer.exit_code == 0
    assert json.loads(before)["key"] in answer.stdout
    assert read_bundle(signed, trusted_keys=[f"{key}.pub"])


def test_damaged_bundles_are_not_signed_and_others_are(bundle_folder: Path, key: Path, tmp_path: Path) -> None:
    good, bad = (Path(shutil.copytree(bundle_folder, tmp_path / name)) for name in ("good", "bad"))
    (bad / "pair.onnx").write_bytes(b"x")
    assert "pair.onnx: changed" in error_of(run("sign", bad, good, "--key-file", key))
    assert not (bad / SIGNATURE).exists()
    assert (good / SIGNATURE).exists()


def test_one_line_for_a_key_that_cannot_sign(bundle_folder: Path, key: Path, tmp_path: Path) -> None:
    bundles = [shutil.copytree(bundle_folder, tmp_path / name) for name in ("a", "b")]
    assert "is a public key" in error_of(run("sign", *bundles, "--key-file", f"{key}.pub"))
    assert "there is no such key file" in error_of(run("sign", *bundles, "--key-file", tmp_path / "gone"))


Change = Callable[[Path], object]
TAMPERED: dict[str, tuple[Change, str]] = {
    "no signature": (lambda folder: (folder / SIGNATURE).unlink(), "is not signed, and a signature is demanded"),
    "manifest": (
        lambda folder: (folder / MANIFEST).write_text((folder / MANIFEST).read_text() + " "),
        "the manifest is not the one that was signed",
    ),
    "graph": (lambda folder: (folder / "encoder.onnx").write_bytes(b"x"), "encoder.onnx: changed since"),
    "more": (lambda folder: (folder / "more.onnx").write_bytes(b"x"), "more.onnx: is not listed in the manifest"),
    "less": (lambda folder: (folder / "golden.onnx").unlink(), "golden.onnx: a file of this bundle is missing"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_service_refuses_what_was_tampered_with(case: str, signed: Path, key: Path) -> None:
    change, words = TAMPERED[case]
    change(signed)
    assert words in error_of(run("serve", "--model", f"pcb={signed}", "--trusted-key", f"{key}.pub"))
    settings = ServiceSettings(
        models=(ModelSettings(name="pcb", bundle=str(signed)),), trusted_keys=(Path(f"{key}.pub").read_text(),)
    )
    assert words in error_of(run("verify", signed, "--trusted-key", f"{key}.pub"))
    with pytest.raises(CheckpointError, match=words):  # what a replica does
        open_models(settings, Metrics())


def test_a_service_takes_bundles_of_a_trusted_key(signed: Path, key: Path, tmp_path: Path, taken: int) -> None:
    command = ("serve", "--model", f"pcb={signed}", "--port", taken)
    assert run("keys", tmp_path / "other").exit_code == 0
    assert "cannot listen" in error_of(
        run(*command, "--trusted-key", f"{tmp_path}/other.pub", "--trusted-key", f"{key}.pub")
    )
    assert "not trusted here" in error_of(run(*command[:3], "--trusted-key", f"{tmp_path}/other.pub"))
    assert "is a private key" in error_of(run(*command, "--trusted-key", key))
    settings = ServiceSettings(models=(ModelSettings(name="pcb", bundle=str(signed)),), trusted_keys=(f"{key}.pub",))
    assert set(open_models(settings, Metrics()).slots) == {"pcb"}


def test_bundles_are_verified_without_being_served(signed: Path, bundle_folder: Path, key: Path) -> None:
    answer = run("verify", signed, "--trusted-key", f"{key}.pub")
    assert (answer.exit_code, answer.stdout.count("is whole and signed by a trusted key")) == (0, 1)
    both = run("verify", signed, bundle_folder).stdout
    assert both.count("is whole; it carries a signature") == both.count("is whole\n") == 1
    assert f"{bundle_folder}: is not signed" in error_of(
        run("verify", signed, bundle_folder, "--trusted-key", f"{key}.pub")
    )


def test_the_spec_may_demand_it_and_the_option_wins(signed: Path, key: Path, tmp_path: Path, taken: int) -> None:
    assert run("keys", tmp_path / "other").exit_code == 0
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        f"results_dir: {tmp_path}/results\n"
        f"serve: {{models: [{{name: pcb, bundle: {signed}}}], trusted_keys: ['{tmp_path}/other.pub']}}\n"
    )
    assert "not trusted here" in error_of(run("serve", "-e", spec))
    assert "cannot listen" in error_of(run("serve", "-e", spec, "--port", taken, "--trusted-key", f"{key}.pub"))
