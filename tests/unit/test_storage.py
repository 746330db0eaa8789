from __future__ import annotations

from pathlib import Path

import pytest

from changenet import storage
from changenet.errors import DataError

MEMORY = "memory://changenet-tests"


@pytest.mark.parametrize("folder", ["", MEMORY])
def test_what_is_written_is_read(folder: str, tmp_path: Path) -> None:
    path = storage.join(folder or tmp_path, "deep", "a.txt")
    assert not storage.exists(path)
    storage.write_text(path, "grün")
    storage.write_text(path, "blau")
    storage.append_line(path, "!")
    assert storage.read_text(path) == "blau!\n"


@pytest.mark.parametrize("folder", ["", MEMORY])
def test_files_are_as_before_where_one_of_several_steps_fails(folder: str, tmp_path: Path) -> None:
    old, fresh = (storage.join(folder or tmp_path, "steps", name) for name in ("old", "fresh"))
    storage.write_text(old, "old")
    with pytest.raises(RuntimeError), storage.or_as_before(old, fresh):
        storage.write_text(old, "new")
        storage.write_text(fresh, "new")
        raise RuntimeError
    assert storage.read_text(old) == "old"
    assert not storage.exists(fresh)
    with storage.or_as_before(old):
        storage.write_text(old, "new")
    assert storage.read_text(old) == "new"


def test_what_lies_in_a_folder_is_known_through_links(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("folder")
    assert storage.is_inside(tmp_path / "link" / "deep" / "a", tmp_path / "folder")
    assert storage.is_inside(tmp_path / "folder" / "..", tmp_path)
    assert not storage.is_inside(tmp_path / "folder" / ".." / "a", tmp_path / "folder")


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
def test_only_an_empty_folder_goes(folder: str, tmp_path: Path) -> None:
    inner = storage.make_folder(storage.join(folder or tmp_path, "perhaps-empty"))
    storage.write_text(storage.join(inner, "a.txt"), "x")
    storage.remove_empty_folder(inner)
    assert storage.names_inside(inner) == ["a.txt"]
    storage.remove(storage.join(inner, "a.txt"))
    for _ in range(2):
        storage.remove_empty_folder(inner)
        assert not storage.exists(inner)


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


@pytest.mark.parametrize("folder", ["", MEMORY])
def test_a_pointer_to_nothing_says_what_is_gone(folder: str, tmp_path: Path) -> None:
    pointer = storage.join(folder or tmp_path, "dangling.pth")
    storage.set_latest(pointer, "gone.pth")
    assert storage.resolve_latest(pointer) == storage.join(folder or tmp_path, "gone.pth")


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
