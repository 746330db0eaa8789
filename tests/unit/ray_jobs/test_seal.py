"""`changenet seal` and `changenet unseal`: where the passphrase comes from, what is said, what is never shown."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from changenet.bundle import read_bundle
from changenet.encryption import is_sealed, read_model
from ray_jobs.cli import app

KEY = "horse staple"
Run = Callable[..., Result]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.pth"
    torch.save({"weight": torch.arange(100)}, path)
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("CHANGENET_KEY", KEY)

    def invoke(*arguments: object) -> Result:
        answer = CliRunner().invoke(app, [str(each) for each in arguments])
        assert KEY not in answer.output
        return answer

    return invoke


def error_of(answer: Result) -> str:
    assert answer.exit_code == 2, answer.output
    (line,) = answer.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_there_and_back(run: Run, file: Path) -> None:
    before = file.read_bytes()
    answer = run("seal", "--overwrite", file)
    assert answer.exit_code == 0
    assert "Encrypted" in answer.stdout
    assert read_model(file, KEY).read() == before
    assert file.read_bytes() != before
    assert run("unseal", "--overwrite", file).exit_code == 0
    assert file.read_bytes() == before


def test_the_passphrase_comes_from_a_variable_or_a_file(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("from a file\n")
    monkeypatch.setenv("LINE_KEY", "from a variable")
    for number, (options, key) in enumerate(
        [(("--key-file", tmp_path / "key"), "from a file"), (("--key-env", "LINE_KEY"), "from a variable"), ((), KEY)]
    ):
        folder = tmp_path / str(number)
        assert run("seal", file, "--out", folder, *options).exit_code == 0
        assert read_model(folder / "model.pth", key).read() == file.read_bytes()
    assert "Give one of them" in error_of(run("seal", file, "--key-file", "key", "--key-env", "LINE_KEY"))
    assert "no such file" in error_of(run("seal", file, "--key-file", tmp_path / "gone"))
    assert "variable NOT_SET_" in error_of(run("seal", file, "--key-env", "NOT_SET_"))
    monkeypatch.delenv("CHANGENET_KEY")
    assert "CHANGENET_KEY" in error_of(run("seal", file))


def test_without_out_or_overwrite_nothing_happens(run: Run, file: Path) -> None:
    before = file.read_bytes()
    line = error_of(run("seal", file))
    assert "model.pth: exists. Add --overwrite to replace it, or --out FOLDER" in line
    assert file.read_bytes() == before


def test_every_wrong_file_is_a_line_and_the_others_are_done(run: Run, file: Path, tmp_path: Path) -> None:
    link = tmp_path / "changenet_model_classify_latest.pth"
    link.symlink_to("model.pth")
    sealed = tmp_path / "sealed.pth"
    shutil.copy(file, sealed)
    assert run("seal", "--overwrite", sealed).exit_code == 0
    answer = run("seal", "--overwrite", sealed, file, link, tmp_path / "gone.pth")
    assert answer.exit_code == 2
    lines = answer.stderr.strip().splitlines()
    assert len(lines) == 2
    assert "sealed.pth: is encrypted already" in lines[0]
    assert "gone.pth: no such file" in lines[1]
    assert is_sealed(file)
    assert link.is_symlink()


def test_files_of_one_name_need_two_folders(run: Run, file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(file, tmp_path / "other" / "model.pth")
    assert "same name" in error_of(run("seal", file, tmp_path / "other" / "model.pth", "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_whole_bundle(run: Run, bundle_folder: Path, tmp_path: Path) -> None:
    assert run("seal", bundle_folder, "--out", tmp_path / "sealed").exit_code == 0
    sealed = tmp_path / "sealed" / bundle_folder.name
    assert read_bundle(sealed).encrypted
    (tmp_path / "another").write_text("another key")
    line = error_of(run("unseal", "--overwrite", sealed, "--key-file", tmp_path / "another"))
    assert "wrong encryption key, or the file is damaged" in line


def test_a_service_opens_encrypted_bundles_with_the_same_passphrase(
    run: Run, bundle_folder: Path, tmp_path: Path
) -> None:
    assert run("seal", bundle_folder, "--out", tmp_path).exit_code == 0
    (tmp_path / "passphrase").write_text(KEY)
    serve = ("serve", "--model", f"pcb={tmp_path / bundle_folder.name}", "--port")
    with socket.socket() as other:  # of a service whose bundles are all right: it fails for the port, before Ray starts
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        assert "cannot listen" in error_of(run(*serve, port, "--key-env", "CHANGENET_KEY"))
        assert "cannot listen" in error_of(run(*serve, port, "--key-file", tmp_path / "passphrase"))
        assert "serve also takes --key-file" in run(*serve, port).stderr
    assert "no passphrase in the environment variable GONE" in error_of(run(*serve, port, "--key-env", "GONE"))
    both = ("--key-env", "CHANGENET_KEY", "--key-file", tmp_path / "passphrase")
    assert "name two passphrases" in error_of(run(*serve, port, *both))


@pytest.mark.parametrize("verb", ["seal", "unseal"])
def test_no_option_takes_the_passphrase_itself(run: Run, verb: str, file: Path) -> None:
    assert run(verb, file, "--key", "x").exit_code == 2
    assert "CHANGENET_KEY" in run(verb, "--help").stdout
