from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from changenet.data.scan import Split, scan
from changenet.data.scan_rows import PictureRules
from changenet.errors import DataError

RULES = PictureRules(image_ext=".png")


@pytest.fixture
def check(tmp_path, write_csv):
    """Scan splits given as {name: rows or text}."""

    def run(rules=RULES, workers=1, images_dir=tmp_path / "images", **splits):
        named = [
            Split(name, str(write_csv(content, f"{name}.csv")), str(images_dir), labelled=name != "infer")
            for name, content in splits.items()
        ]
        return scan(named, rules=rules, workers=workers)

    return run


def first(report, kind: str) -> str:
    found = report.to_dict()["findings"][kind]["first"][0]
    return f"{found['where']}: {found['what']}. {found['fix']}"


def test_a_clean_set_has_no_findings(boards, check, counts):
    _, rows = boards(8)
    report = check(train=rows)
    assert report.to_dict() == {"ok": True, "rows": {"train": 8}, "findings": {}}
    report.raise_errors()


def test_lights_and_golden_folders_are_looked_at_file_by_file(boards, check, counts, tmp_path):
    _, rows = boards(8, lights=("White", "Solder"))
    (tmp_path / "images" / "test" / "part02_Solder.png").unlink()
    rules = PictureRules(image_ext=".png", lights=("White", "Solder"))
    report = check(rules, train=rows)
    assert counts(report.findings) == {"missing_picture": 1}
    assert "train.csv:4: " in first(report, "missing_picture") and "part02_Solder.png" in first(
        report, "missing_picture"
    )
    (tmp_path / "images" / "golden" / "part07_White.png").write_bytes(b"\x89PNG")
    folder = [[folder, "golden", label, name] for folder, _, label, name in rows]
    report = check(PictureRules(image_ext=".png", lights=("White", "Solder"), num_golden=3), train=folder)
    assert counts(report.findings) == {"missing_picture": 1, "unreadable_picture": 8}  # every row uses that golden


def test_every_kind_of_bad_picture_is_collected_with_its_line(boards, check, counts, picture, tmp_path):
    root, rows = boards(8)
    tests, goldens = root / "test", root / "golden"
    (tests / "part00.png").rename(tests / "Part00.png")
    (tests / "part01.png").write_bytes(b"")
    content = (tests / "part02.png").read_bytes()
    (tests / "part02.png").write_bytes(content[: len(content) // 2])
    picture().save(goldens / "part03.png", save_all=True, append_images=[picture(1)])
    Image.new("RGB", (90, 90)).save(goldens / "part04.png")
    Image.new("RGB", (15, 12)).save(goldens / "part05.png")
    rows.append(["..", "golden", "PASS", "part06"])
    report = check(PictureRules(image_ext=".png", max_pixels=8000), train=rows)
    assert counts(report.findings) == {
        "path_outside_images_dir": 1,
        "missing_picture": 1,
        "unreadable_picture": 1,
        "truncated_picture": 1,
        "over_large_picture": 1,
        "multi_frame_picture": 1,
        "unequal_sizes": 1,
    }
    with pytest.raises(DataError) as caught:
        report.raise_errors()
    lines = sorted(int(problem.where.rsplit(":", 1)[1]) for problem in caught.value.problems)
    assert lines == [2, 3, 4, 5, 6, 10]
    assert "Part00.png: upper and lower case differ" in first(report, "missing_picture")
    assert "15 x 12, 16 x 12" in first(report, "unequal_sizes")


def test_golden_folders_absent_or_empty(boards, check, counts, tmp_path):
    _, rows = boards(4)
    (tmp_path / "images" / "empty").mkdir()
    rows = [[a, ["golden", "none", "empty", "golden"][i], c, d] for i, (a, _, c, d) in enumerate(rows)]
    report = check(PictureRules(image_ext=".png", num_golden=2), train=rows)
    assert counts(report.findings) == {"golden_folder_absent": 1, "golden_folder_empty": 1}


def test_extension_that_differs_from_the_content(boards, check, counts, picture):
    root, rows = boards(4)
    buffer = io.BytesIO()
    picture(0).save(buffer, "BMP")
    (root / "test" / "part00.png").write_bytes(buffer.getvalue())
    report = check(train=rows)
    assert counts(report.findings) == {"extension_differs_from_content": 1}
    assert "holds BMP" in first(report, "extension_differs_from_content")
    report.raise_errors()


def test_duplicates_contradictions_and_leaks_are_found_by_content(boards, check, counts, picture):
    root, rows = boards(12)
    for kind in ("test", "golden"):  # part08 = part00 in another name and file format
        Image.open(root / kind / "part00.png").save(root / kind / "part08.png", compress_level=0)
    rows[8][2] = "scratch"
    report = check(train=rows[:10], validation=[*rows[10:], rows[3], rows[0]], infer=[["test", "golden", "", "part10"]])
    found = counts(report.findings)
    assert found == {"duplicate": 1, "contradictory_labels": 1, "picture_in_two_splits": 3}
    assert "train.csv:10: the same test picture and golden as line 2" in first(report, "duplicate")
    assert "'scratch', but the same test picture is 'PASS' at" in first(report, "contradictory_labels")
    assert "validation.csv:4: the same test picture (validation) is also in train" in first(
        report, "picture_in_two_splits"
    )
    report.raise_errors()


def test_the_same_test_picture_with_another_golden_is_no_duplicate(boards, check, counts, picture):
    root, rows = boards(4)
    Image.open(root / "test" / "part00.png").save(root / "test" / "part01.png")
    assert counts(check(train=rows).findings) == {}


def test_labels_one_class_imbalance_and_unseen(boards, check, counts):
    _, rows = boards(44)
    good = [[a, b, "PASS", d] for a, b, _, d in rows]
    rare = [*good[:40], ["test", "golden", "crack", "part40"]]
    report = check(train=rare, validation=[["test", "golden", "burn", "part41"], good[42]], test=good[43:])
    assert counts(report.findings) == {"one_class_only": 1, "label_not_in_training": 1, "imbalance": 1}
    assert "40 rows are PASS and 1 are defects" in first(report, "imbalance")
    assert "'burn'" in first(report, "label_not_in_training")
    report.raise_errors()


def test_real_classes_must_name_every_label(boards, check, counts, write_csv, tmp_path):
    _, rows = boards(4)
    path = write_csv([*rows[:3], ["test", "golden", "crack", "part03"]])
    report = scan([Split("train", str(path), str(tmp_path / "images"))], rules=RULES, classes=("PASS", "missing"))
    assert counts(report.findings) == {"label_is_no_class": 1}


def test_goldens_far_brighter_than_the_others(boards, check, counts):
    root, rows = boards(20)
    Image.new("RGB", (16, 12), (250, 250, 250)).save(root / "golden" / "part07.png")
    report = check(train=rows)
    assert counts(report.findings) == {"golden_brightness_outlier": 1}
    assert "golden/part07.png: mean brightness 250, of most goldens 12" in first(report, "golden_brightness_outlier")


def test_csv_errors_and_picture_errors_come_together(boards, check, counts, tmp_path):
    boards(4)
    text = "input_path,golden_path,label,object_name\ntest,golden,PASS,part00\ntest,golden\ntest,golden,x,gone\n"
    report = check(train=text, validation=text.replace(",", ";"), test="", infer="input_path,golden_path,object_name\n")
    assert counts(report.findings) == {
        "empty_file": 1,
        "no_rows": 1,
        "wrong_separator": 1,
        "ragged_row": 1,
        "missing_picture": 2,
    }
    assert report.rows == {"train": 2, "validation": 0, "test": 0, "infer": 0}


def test_missing_csv_and_images_dir(tmp_path, counts, write_csv, boards):
    _, rows = boards(2)
    report = scan(
        [
            Split("train", str(tmp_path / "none.csv"), str(tmp_path / "images")),
            Split("test", str(write_csv(rows)), str(tmp_path / "nowhere")),
        ],
        rules=RULES,
    )
    assert counts(report.findings) == {"missing_csv": 1, "missing_images_dir": 1}


def test_na_is_a_label_like_any_other(boards, check, counts):
    _, rows = boards(4)
    rows[3][2] = "NA"
    assert counts(check(train=rows).findings) == {}


def test_a_thousand_rows_in_two_processes_give_the_same_report(boards, check, tmp_path):
    root, rows = boards(8)
    (root / "test" / "part05.png").write_bytes(b"")
    many = (rows * 150)[:1100]
    seen = []
    alone = check(train=many)
    named = [Split("train", str(tmp_path / "train.csv"), str(root))]
    shared = scan(named, rules=RULES, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert json.dumps(shared.to_dict()) == json.dumps(alone.to_dict())
    assert seen[-1] == (1100, 1100) and np.all(np.diff([done for done, _ in seen]) > 0)
