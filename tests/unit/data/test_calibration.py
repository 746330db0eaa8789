"""Which pairs a quantization sees."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from changenet.data.calibration import PicturesAlone, batches, drawn, stratified
from changenet.data.lights import PictureLayout
from changenet.errors import DataError

LAYOUT = PictureLayout(lights=("Solder", "White"), width=8, height=8)


def save(folder: Path, name: str, value: int) -> None:
    Image.new("RGB", (8, 8), (value, value, value)).save(folder / name)


def test_every_label_has_its_share_as_far_as_it_goes() -> None:
    labels = ["PASS"] * 100 + ["open"] * 2 + ["short"] * 50
    rows = stratified(labels, 32)
    counts = {name: sum(labels[row] == name for row in rows) for name in set(labels)}
    assert counts == {"PASS": 15, "open": 2, "short": 15}
    assert rows == sorted(set(rows)) == stratified(labels, 32)
    assert stratified(labels, 1000) == list(range(152))


def test_what_is_compared_has_the_labels_of_the_whole_set() -> None:
    labels = (["PASS"] * 80 + ["a", "b", "c", "d"] * 5) * 20
    rows = drawn(len(labels), 500)
    assert rows == sorted(set(rows)) == drawn(len(labels), 500)
    assert np.mean([labels[row] == "PASS" for row in rows]) == pytest.approx(0.8, abs=0.05)
    assert drawn(7, 500) == list(range(7))


def test_lights_of_one_picture_belong_together_and_it_is_its_own_golden(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path, f"C{number}_Solder.png", 10 * number)
        save(tmp_path, f"C{number}_White.png", 200 + number)
    pictures = PicturesAlone(tmp_path, image_ext=".png", layout=LAYOUT)
    assert len(pictures) == 3
    test, golden = pictures.read(1)
    assert test.shape == (3, 16, 8)
    assert (test[:, :8] == 10).all()
    assert (test[:, 8:] == 201).all()
    np.testing.assert_array_equal(test, golden)
    assert PicturesAlone(tmp_path, image_ext=".png", layout=LAYOUT, num_golden=3).read(0)[1].shape == (3, 3, 16, 8)
    sizes = [(len(test), len(golden)) for test, golden in batches(pictures, range(3), size=2)]
    assert sizes == [(2, 2), (1, 1)]


def test_another_suffix_does_as_well_and_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"_Solder\.jpg"):
        PicturesAlone(tmp_path, image_ext=".jpg", layout=LAYOUT)
    (tmp_path / "line_1").mkdir()
    save(tmp_path / "line_1", "C0_Solder.png", 1)
    with pytest.raises(DataError, match=r"images_dir: .* holds no pictures but in its subfolders.*such as .*/line_1"):
        PicturesAlone(tmp_path, image_ext=".png", layout=LAYOUT)
    save(tmp_path, "C0_Solder.bmp", 1)
    pictures = PicturesAlone(tmp_path, image_ext=".jpg", layout=LAYOUT)
    with pytest.raises(DataError, match=r"C0_White\.bmp"):
        pictures.read(0)
