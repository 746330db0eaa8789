from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from changenet import storage
from changenet.errors import ChangeNetError, DataError

MEMORY = "memory://changenet-tests"


@pytest.mark.parametrize("folder", ["", MEMORY])
def test_what_is_written_is_read(folder: str, tmp_path: Path) -> None:
    path = storage.join(folder or tmp_path, "deep", "a.txt")
    assert not storage.exists(path)
    storage.write_text(path, "grün")
    storage.write_text(path, "blau")
    storage.append_line(path, "!")
    assert storage.read_text(path) == "blau!\n"


def test_an_error_on_the_way_leaves_the_old_content_and_no_debris(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    storage.write_text(path, "old")
    with pytest.raises(RuntimeError), storage.atomic_write(path) as file:
        file.write(b"half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("folder", ["", MEMORY])
def test_a_folder_goes_with_all_that_is_in_it(folder: str, tmp_path: Path) -> None:
    inner = storage.join(folder or tmp_path, "to-go", "deep")
    storage.write_text(storage.join(inner, "a.txt"), "x")
    storage.remove_folder(storage.join(folder or tmp_path, "to-go"))
    assert not storage.exists(inner)
    storage.remove_folder(storage.join(folder or tmp_path, "to-go"))


@pytest.mark.parametrize("folder", ["", MEMORY])
def test_the_digest_is_that_of_the_content(folder: str, tmp_path: Path) -> None:
    path = storage.join(folder or tmp_path, "a.bin")
    storage.write_bytes(path, b"abc")
    assert storage.file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("folder", ["", MEMORY])
def test_the_latest_pointer_follows(folder: str, tmp_path: Path) -> None:
    pointer = storage.join(folder or tmp_path, "latest.pth")
    assert storage.resolve_latest(pointer) is None
    for name in ("one.pth", "two.pth"):
        storage.write_bytes(storage.join(folder or tmp_path, name), b"x")
        storage.set_latest(pointer, name)
        assert str(storage.resolve_latest(pointer)).endswith(name)


def test_a_pointer_to_nothing_is_nothing(tmp_path: Path) -> None:
    storage.set_latest(tmp_path / "latest.pth", "gone.pth")
    assert storage.resolve_latest(tmp_path / "latest.pth") is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt"):
        storage.read_bytes(tmp_path / "gone.txt")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/inside"):
        storage.read_bytes(tmp_path / "file" / "inside")


def test_a_file_that_is_replaced_keeps_who_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    storage.write_text(path, "old")
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o600)
    storage.write_text(path, "new")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_second_run_in_the_folder_is_told_who_is_there(tmp_path: Path) -> None:
    with storage.RunLock(tmp_path), pytest.raises(ChangeNetError, match="process"):
        storage.RunLock(tmp_path).__enter__()
    with storage.RunLock(tmp_path):
        pass


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    code = "import os, sys; from changenet.storage import RunLock; RunLock(sys.argv[1]).__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    with storage.RunLock(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "run", "nosuchprotocol://bucket/run"):
        with pytest.raises(ChangeNetError, match="cannot be") as raised:
            storage.RunLock(folder).__enter__()
        assert len(raised.value.problems) == 1
