import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from changenet.data.annotations import read_annotations
from changenet.errors import DataError
from changenet.spec import load_spec
from changenet.synthetic import DEFECTS, LIGHTS, Request, make_plan, write_dataset
from changenet.synthetic.plan import SCARCEST_FIRST, SPLITS, split_sizes

SMALL = Request(pairs=48, size=32)


def rows(folder: Path, split: str) -> list[dict[str, str]]:
    with (folder / f"{split}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "spec.yaml"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("sample") / "boards"
    write_dataset(target, SMALL, workers=1)
    return target


def test_every_row_names_pictures_that_exist(folder):
    for split in SPLITS:
        for row in rows(folder, split):
            for place in (row["input_path"], row["golden_path"]):
                with Image.open(folder / "images" / place / f"{row['object_name']}.jpg") as picture:
                    assert picture.size == (32, 32)
                    assert picture.mode == "RGB"


def test_the_core_reads_the_csv_files(folder):
    sizes = {split: len(read_annotations(folder / f"{split}.csv")) for split in SPLITS}
    assert sizes == split_sizes(48)


def test_the_spec_loads_without_a_warning(folder):
    loaded = load_spec(folder / "spec.yaml")
    assert not loaded.warnings
    assert loaded.experiment.dataset.classify.image_width == 32
    assert loaded.experiment.dataset.classify.train_dataset.csv_path == str(folder / "train.csv")


def test_the_same_request_gives_the_same_bytes_whatever_the_number_of_processes(folder, tmp_path):
    write_dataset(tmp_path / "again", SMALL, workers=2)
    assert digests(tmp_path / "again") == digests(folder)


def test_another_seed_gives_other_boards(folder, tmp_path):
    write_dataset(tmp_path / "other", Request(pairs=48, size=32, seed=1), workers=1)
    ours, theirs = digests(folder), digests(tmp_path / "other")
    assert not {ours[name] for name in ours if name.endswith(".jpg")} & set(theirs.values())


def test_good_pairs_are_never_equal_pixel_by_pixel(folder):
    for row in rows(folder, "train"):
        pictures = [
            np.asarray(Image.open(folder / "images" / row[column] / f"{row['object_name']}.jpg"), int)
            for column in ("input_path", "golden_path")
        ]
        assert np.abs(pictures[0] - pictures[1]).mean() > 1


def test_four_lights_and_several_goldens_follow_the_layout(tmp_path):
    request = Request(pairs=40, size=32, lights=4, goldens=3)
    summary = write_dataset(tmp_path, request, workers=1)
    row = rows(tmp_path, "test")[0]
    goldens = sorted(path.name for path in (tmp_path / "images" / row["golden_path"]).iterdir())
    assert goldens == sorted(f"golden_{n}_{light}.jpg" for n in (1, 2, 3) for light in LIGHTS)
    tests = tmp_path / "images" / row["input_path"]
    assert all((tests / f"{row['object_name']}_{light}.jpg").is_file() for light in LIGHTS)
    assert summary.pictures == len(list((tmp_path / "images").rglob("*.jpg")))
    dataset = yaml.safe_load((tmp_path / "spec.yaml").read_text())["dataset"]["classify"]
    assert tuple(dataset["input_map"]) == LIGHTS
    assert dataset["num_input"] == 4
    assert dataset["num_golden"] == 3
    assert dataset["image_width"] == dataset["image_height"] == 224


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        write_dataset(tmp_path, SMALL, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_sample_made_with_other_options_is_left_alone(folder):
    before = digests(folder)
    with pytest.raises(DataError, match="other options"):
        write_dataset(folder, Request(pairs=50, size=32), workers=1)
    assert digests(folder) == before


def test_writing_the_same_sample_again_keeps_a_spec_that_was_edited(tmp_path):
    write_dataset(tmp_path, SMALL, workers=1)
    spec = tmp_path / "spec.yaml"
    spec.write_text(spec.read_text() + "# mine\n")
    write_dataset(tmp_path, SMALL, workers=1)
    assert spec.read_text().endswith("# mine\n")


def test_all_options_out_of_range_are_reported_at_once():
    with pytest.raises(DataError) as error:
        Request(pairs=3, lights=5, seed=-1)
    assert [problem.where for problem in error.value.problems] == ["--pairs", "--lights", "--seed"]


@pytest.mark.parametrize("pairs", [200, 1000])
def test_every_kind_of_defect_is_in_every_split(pairs):
    plan = make_plan(Request(pairs=pairs))
    for split in SPLITS:
        labels = [pair.label for pair in plan.pairs if pair.split == split]
        assert set(labels) == {"PASS", *DEFECTS}
        assert 0.24 < 1 - labels.count("PASS") / len(labels) <= 0.5


def test_a_board_belongs_to_one_split_and_every_site_is_trained():
    plan = make_plan(Request(pairs=400))
    boards = {split: {pair.serial for pair in plan.pairs if pair.split == split} for split in SPLITS}
    assert sum(len(serials) for serials in boards.values()) == len(set().union(*boards.values()))
    trained = {pair.site for pair in plan.pairs if pair.split == "train"}
    assert trained == set(range(len(plan.sites)))
    assert len({(pair.site, pair.serial) for pair in plan.pairs}) == len(plan.pairs)


def test_the_order_of_dealing_names_every_defect():
    assert sorted(SCARCEST_FIRST) == sorted(DEFECTS)
