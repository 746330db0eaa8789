from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from changenet.data.annotations import read_annotations
from changenet.data.augment import PairAugmentation
from changenet.data.golden_cache import GoldenCache
from changenet.data.lights import PictureLayout
from changenet.data.pairs import PairDataset, PairSource, choose_goldens
from changenet.data.randomness import generator
from changenet.data.sampling import WeightedBatchSampler
from changenet.errors import DataError

LIGHTS = ("White", "Solder")


@pytest.fixture
def source_of(boards, write_csv):
    def make(count=8, lights=("",), csv_rows=None, **options):
        root, rows = boards(count, lights)
        annotations = read_annotations(write_csv(csv_rows or rows))
        layout = options.pop("layout", PictureLayout(lights=lights, width=16, height=12))
        return PairSource(annotations=annotations, images_dir=root, image_ext=".png", layout=layout, **options)

    return make


@pytest.fixture
def golden_folder(tmp_path, picture):
    def make(count):
        folder = tmp_path / "images" / "goldens"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(900 + number).save(folder / f"g{number}.png")

    return make


def dataset_of(source, **options) -> PairDataset:
    return PairDataset(source=source, targets=source.annotations.is_defect.astype(np.int64), **options)


def test_a_row_becomes_its_two_pictures(source_of, picture):
    item = dataset_of(source_of())[3]
    assert torch.equal(item["test"], torch.from_numpy(np.asarray(picture(300)).transpose(2, 0, 1).copy()))
    assert torch.equal(item["golden"], torch.from_numpy(np.asarray(picture(310)).transpose(2, 0, 1).copy()))
    assert (item["label"].item(), item["label"].dtype, item["row"]) == (1, torch.int64, 3)


def test_lights_are_stacked_in_the_order_of_the_layout(source_of, picture):
    source = source_of(lights=LIGHTS)
    test, golden = source.read(1)
    assert test.shape == golden.shape == (3, 24, 16)
    expected = np.concatenate([np.asarray(picture(100)), np.asarray(picture(101))]).transpose(2, 0, 1)
    assert np.array_equal(test, expected)
    assert [path.name for path in source.test_paths(1)] == ["part01_White.png", "part01_Solder.png"]


def test_reading_agrees_with_the_layout(source_of):
    layout = PictureLayout(lights=LIGHTS, concat="grid", grid=(2, 1), width=9, height=7)
    source = source_of(lights=LIGHTS, layout=layout)
    expected = layout.combine([Image.open(path) for path in source.test_paths(2)])
    assert np.array_equal(source.read(2)[0], expected)


def test_goldens_are_the_first_by_name_and_repeat_in_that_order(source_of, golden_folder):
    golden_folder(3)
    rows = [["test", "goldens", "PASS", f"part{number:02d}"] for number in range(4)]
    names = {}
    for wanted in (2, 3, 5):
        source = source_of(csv_rows=rows, num_golden=wanted)
        names[wanted] = [files[0].stem for files in source.golden_paths(0)]
        assert source.read(0)[1].shape == (wanted, 3, 12, 16)
    assert names == {2: ["g0", "g1"], 3: ["g0", "g1", "g2"], 5: ["g0", "g1", "g2", "g0", "g1"]}


def test_goldens_of_several_lights_need_not_be_named_like_the_part(source_of, tmp_path, picture):
    folder = tmp_path / "images" / "goldens" / "A17"
    folder.mkdir(parents=True)
    for seed, name in enumerate(("b_White", "b_Solder", "a10_White", "a10_Solder", "a2_White", "a2_Solder")):
        picture(800 + seed).save(folder / f"{name}.png")
    (folder / "notes.txt").write_text("no golden")
    rows = [["test", "goldens/A17", "PASS", f"part{number:02d}"] for number in range(4)]
    source = source_of(lights=LIGHTS, csv_rows=rows, num_golden=2)
    assert [[file.name for file in files] for files in source.golden_paths(0)] == [
        ["a10_White.png", "a10_Solder.png"],
        ["a2_White.png", "a2_Solder.png"],
    ]
    test, goldens = source.read(0)
    assert (test.shape, goldens.shape) == ((3, 24, 16), (2, 3, 24, 16))
    assert np.array_equal(goldens[1], source.layout.combine([picture(804), picture(805)]))


def test_one_transform_serves_the_test_and_all_its_goldens(source_of, golden_folder):
    golden_folder(2)
    rows = [["test", "goldens", "PASS", f"part{number:02d}"] for number in range(4)]
    source = source_of(csv_rows=rows, num_golden=2)
    plain, flipped = dataset_of(source)[0], dataset_of(source, augmentation=PairAugmentation(hflip_probability=1.0))[0]
    assert torch.equal(flipped["test"], plain["test"].flip(-1))
    assert torch.equal(flipped["golden"], plain["golden"].flip(-1))
    assert flipped["golden"].shape == (2, 3, 12, 16)


def test_training_draws_goldens_by_seed_epoch_and_row(source_of, golden_folder):
    golden_folder(6)
    rows = [["test", "goldens", "PASS", f"part{number:02d}"] for number in range(4)]
    source = source_of(csv_rows=rows, num_golden=3)
    dataset = dataset_of(source, random_goldens=True, seed=5)

    def draw(row, epoch):
        dataset.set_epoch(epoch)
        return dataset[row]["golden"]

    assert torch.equal(draw(0, 1), draw(0, 1))
    assert not torch.equal(draw(0, 1), draw(0, 2))
    assert not torch.equal(draw(0, 1), draw(1, 1))
    assert torch.equal(dataset_of(source)[0]["golden"], dataset_of(source)[1]["golden"])


def test_drawing_is_without_replacement_while_there_are_enough():
    for seed in range(20):
        assert sorted(choose_goldens(4, 4, generator("t", seed=seed))) == [0, 1, 2, 3]
        assert set(choose_goldens(2, 5, generator("t", seed=seed))) <= {0, 1}


def test_a_bad_picture_names_the_line_and_the_file(source_of, tmp_path):
    source = source_of()
    (tmp_path / "images" / "golden" / "part02.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        source.read(2)
    assert str(caught.value).startswith(str(tmp_path / "train.csv") + ":4: ")
    assert "golden/part02.png: is an empty file" in str(caught.value)


def test_a_path_outside_names_the_line(source_of):
    source = source_of(csv_rows=[["..", "golden", "PASS", "part00"]])
    with pytest.raises(DataError, match=r"train.csv:2: '\.\.': leads outside images_dir"):
        source.test_paths(0)


def test_all_missing_files_are_told_at_once_without_opening_any(source_of, tmp_path):
    source = source_of()
    for name in ("part01", "part04"):
        next((tmp_path / "images").rglob(f"test*/**/{name}.png")).unlink()
    next((tmp_path / "images").rglob("part02.png")).write_bytes(b"no picture, but there")
    with pytest.raises(DataError) as caught:
        source.check_files()
    assert [problem.where.rsplit(":", 1)[1] for problem in caught.value.problems] == ["3", "6"]
    assert all("no such picture" in problem.what for problem in caught.value.problems)
    source_of(count=4).check_files()


def test_a_light_that_is_missing_of_any_golden_of_a_folder_is_told_once(source_of, tmp_path, picture):
    folder = tmp_path / "images" / "goldens"
    folder.mkdir(parents=True)
    for name in ("a", "b", "c"):
        for light in LIGHTS:
            picture(7).save(folder / f"{name}_{light}.png")
    rows = [["test", "goldens", "PASS", f"part{number:02d}"] for number in range(3)]
    source_of(lights=LIGHTS, csv_rows=rows, num_golden=2).check_files()
    (folder / "c_Solder.png").unlink()  # training draws it, though the first two by name are others
    with pytest.raises(DataError, match=r"train.csv:2: .*goldens/c_Solder.png: no such picture") as caught:
        source_of(lights=LIGHTS, csv_rows=rows, num_golden=2).check_files()
    assert len(caught.value.problems) == 1
    rows[1][1] = "nowhere"
    with pytest.raises(DataError, match=r"train.csv:3: .*nowhere: no such golden folder"):
        source_of(lights=LIGHTS, csv_rows=rows, num_golden=2).check_files()


def test_the_stamp_of_a_pair_tells_when_a_picture_is_another(source_of, tmp_path, golden_folder):
    golden_folder(2)
    csv_rows = [["test", "goldens", "PASS", f"part{number:02d}"] for number in range(2)]
    source = source_of(csv_rows=csv_rows, num_golden=3)
    before = source.stamp(0)
    assert before == source.stamp(0) != source.stamp(1)
    golden = tmp_path / "images" / "goldens" / "g1.png"
    os.utime(golden, ns=(0, golden.stat().st_mtime_ns + 1))
    after = source.stamp(0)
    assert after != before
    with golden.open("ab") as file:
        file.write(b"0")
    os.utime(golden, ns=(0, golden.stat().st_mtime_ns))
    assert source.stamp(0) != after
    golden.unlink()
    assert source.stamp(0) not in (before, after)


def test_goldens_are_decoded_once_and_never_changed(source_of, tmp_path):
    augmentation = PairAugmentation(hflip_probability=1.0, color_probability=1.0, shift_probability=1.0)
    source = source_of()
    first = source.read(0)[1].copy()
    dataset_of(source, augmentation=augmentation)[0]
    (tmp_path / "images" / "golden" / "part00.png").unlink()
    assert np.array_equal(source.read(0)[1], first)
    with pytest.raises(DataError):
        source_of_copy = pickle.loads(pickle.dumps(source))  # another process starts with an empty cache
        source_of_copy.read(0)


def test_the_cache_is_bounded_in_bytes_and_forgets_the_oldest():
    cache, decoded = GoldenCache(1000), []

    def decode(files):
        decoded.append(files)
        return np.zeros(400, dtype=np.uint8)

    for name in ("a", "b", "a", "c", "a", "b"):
        cache.get((name,), decode)
        assert cache.size <= 1000
    assert decoded == [("a",), ("b",), ("c",), ("b",)]
    off = GoldenCache(0)
    off.get(("a",), decode)
    assert off.size == 0


def test_the_same_seed_gives_the_same_pairs_however_they_are_loaded(source_of):
    augmentation = PairAugmentation(
        hflip_probability=0.5,
        rotate_probability=0.5,
        crop=True,
        blur=True,
        color_probability=0.5,
        shift_probability=0.5,
    )
    sampler = WeightedBatchSampler(source_of().annotations.is_defect, ratio=1.0, batch_size=4, seed=1)

    def epochs(workers, numbers):
        dataset = dataset_of(source_of(), augmentation=augmentation, seed=1)
        loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
        result = []
        for epoch in numbers:
            dataset.set_epoch(epoch)
            sampler.set_epoch(epoch)
            result.append(torch.cat([torch.stack([batch["test"], batch["golden"]]) for batch in loader], dim=1))
        return result

    alone, helped = epochs(0, (0, 1)), epochs(2, (0, 1))
    assert all(torch.equal(one, two) for one, two in zip(alone, helped, strict=True))
    assert not torch.equal(alone[0], alone[1])


def test_a_row_drawn_twice_in_an_epoch_is_augmented_differently(source_of):
    dataset = dataset_of(source_of(), augmentation=PairAugmentation(color_probability=1.0))
    assert not torch.equal(dataset[(3, 0)]["test"], dataset[(3, 1)]["test"])
    assert torch.equal(dataset[(3, 1)]["test"], dataset[(3, 1)]["test"])
    assert dataset[(3, 7)]["row"] == 3


def test_targets_must_fit_the_rows(source_of):
    with pytest.raises(ValueError, match="3 targets for 8 rows"):
        PairDataset(source=source_of(), targets=np.zeros(3, dtype=np.int64))
