from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from changenet.data.hints import missing_hint
from changenet.data.kinds import Kind, PictureError
from changenet.data.paths import PicturePaths
from changenet.errors import DataError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images" / "board").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(b"x")
    return tmp_path / "images"


def kind_of(function, *arguments) -> Kind:
    with pytest.raises(PictureError) as caught:
        function(*arguments)
    return caught.value.kind


def test_names_are_built_as_tao_builds_them(images):
    lights = PicturePaths(images, image_ext=".jpg", lights=("White", "Solder"))
    assert lights.files("board", "0001") == (f"{images}/board/0001_White.jpg", f"{images}/board/0001_Solder.jpg")
    single = PicturePaths(images, image_ext=".png")
    assert single.files("board/", "sub/0001") == (f"{images}/board/sub/0001.png",)
    assert single.files("", "0001") == single.files(".", "0001") == (f"{images}/0001.png",)
    assert single.files("", "board/0001") == single.files("board", "0001")


@pytest.mark.parametrize(
    ("folder", "stem"),
    [
        ("/etc", "passwd"),
        ("..", "secret"),
        ("board/../..", "outside/secret"),
        ("board", "../../outside/secret"),
        ("board", "/etc/passwd"),
        ("linked", "secret"),
        ("linked/deeper", "secret"),
        ("board", "linked/secret"),
        ("board", "link"),
        ("bo\0ard", "x"),
        ("board", "x\0"),
    ],
)
def test_nothing_leads_outside(images, folder, stem):
    (images / "linked").symlink_to(images.parent / "outside")
    (images / "board" / "linked").symlink_to(images.parent / "outside")
    (images / "board" / "link.png").symlink_to(images.parent / "outside" / "secret.png")
    paths = PicturePaths(images, image_ext=".png")
    for _ in range(2):  # what is remembered does not open the door
        assert kind_of(paths.files, folder, stem) is Kind.OUTSIDE


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.sampled_from(["..", ".", "board", "linked", "inner", "", "/", "secret"]), max_size=6),
    cut=st.integers(0, 6),
)
def test_whatever_is_accepted_lies_inside(images, parts, cut):
    if not (images / "linked").exists():
        (images / "linked").symlink_to(images.parent / "outside")
        (images / "inner").symlink_to(images / "board")
    try:
        files = PicturePaths(images, image_ext=".png").files("/".join(parts[:cut]), "/".join(parts[cut:]))
    except PictureError:
        return
    assert all(os.path.realpath(file).startswith(os.path.realpath(images) + "/") for file in files)


def test_links_inside_and_a_linked_root_are_fine(images):
    (images / "inner").symlink_to(images / "board")
    root = images.parent / "root"
    root.symlink_to(images)
    (images / "board" / "a.png").write_bytes(b"")
    (images / "board" / "b.png").symlink_to(images / "board" / "a.png")
    paths = PicturePaths(root, image_ext=".png")
    assert paths.files("inner", "b") == (f"{root}/inner/b.png",)


def test_goldens_of_a_folder_are_named_once_and_in_order(images):
    for name in (
        "g2_White.png",
        "g1_White.png",
        "g1_B_White.png",
        "g1_Solder.png",
        "g3.png",
        "g4_White.jpg",
        "notes.txt",
    ):
        (images / "board" / name).write_bytes(b"")
    assert PicturePaths(images, image_ext=".png", lights=("White", "Solder")).stems("board") == ("g1", "g1_B", "g2")
    assert PicturePaths(images, image_ext=".png", lights=("White", "B_White")).stems("board") == ("g1", "g2")
    assert PicturePaths(images, image_ext=".png").stems("board") == (
        "g1_B_White",
        "g1_Solder",
        "g1_White",
        "g2_White",
        "g3",
    )


def test_golden_folders_that_are_absent_or_empty(images):
    paths = PicturePaths(images, image_ext=".png")
    assert kind_of(paths.stems, "none") is Kind.GOLDEN_FOLDER_ABSENT
    assert kind_of(paths.stems, "board") is Kind.GOLDEN_FOLDER_EMPTY
    assert kind_of(paths.stems, "../outside") is Kind.OUTSIDE


def test_images_dir_must_be_a_folder(tmp_path):
    with pytest.raises(DataError, match="not a folder"):
        PicturePaths(tmp_path / "none", image_ext=".png")


def test_hints_name_what_was_probably_meant(images):
    (images / "board" / "Part1.PNG").write_bytes(b"")
    (images / "board" / "part2_Solder.png").write_bytes(b"")

    def hint(name: str) -> str:
        return missing_hint(f"{images}/{name}", str(images))

    assert hint("Board/part1.png") == f"There is {images}/board/Part1.PNG: upper and lower case differ."
    assert "There is 'part2_Solder.png'" in hint("board/part2.png")
    assert "There is no 'part9.png'" in hint("board/part9.png")
    assert "There is no 'nowhere'" in hint("nowhere/part1.png")
    assert "'/'" in hint("board\\part1.png")
