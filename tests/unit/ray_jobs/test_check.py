from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from changenet.errors import DataError, SpecError
from ray_jobs import check
from ray_jobs.cli import app


@pytest.fixture
def spec(tmp_path):
    """A spec of two splits of six pairs each."""
    for kind in ("test", "golden"):
        (tmp_path / "images" / kind).mkdir(parents=True)
    for number in range(12):
        for kind in ("test", "golden"):
            pixels = np.random.default_rng([number, kind == "test"]).integers(80, 180, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / kind / f"{number:03d}.png")
    for name, numbers in (("train", range(6)), ("val", range(6, 12))):
        rows = [f"test,golden,{'PASS' if number % 3 else 'missing'},{number:03d}" for number in numbers]
        (tmp_path / f"{name}.csv").write_text("\n".join(["input_path,golden_path,label,object_name", *rows]) + "\n")
    files = {
        f"{split}_dataset": {"csv_path": f"{tmp_path}/{name}.csv", "images_dir": f"{tmp_path}/images"}
        for split, name in (("train", "train"), ("validation", "val"))
    }
    path = tmp_path / "spec.yaml"
    content = {
        "task": "classify",
        "results_dir": f"{tmp_path}/results",
        "dataset": {"classify": {"image_ext": ".png", **files}},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_clean_set_ends_with_zero_and_leaves_its_records(spec, capsys):
    assert check.run(str(spec)) == 0
    assert "No errors, no warnings. Rows: train 6, validation 6." in capsys.readouterr().out
    folder = spec.parent / "results" / "check"
    assert yaml.safe_load((folder / "experiment.yaml").read_text())["task"] == "classify"
    assert [json.loads(line)["status"] for line in (folder / "status.json").read_text().splitlines()] == [
        "STARTED",
        "SUCCESS",
    ]


def test_errors_are_a_table_on_stdout_and_a_data_error(spec, capsys):
    (spec.parent / "images" / "test" / "002.png").unlink()
    with pytest.raises(DataError, match=r"train.csv:4: .*002.png: no such picture"):
        check.run(str(spec))
    table = capsys.readouterr().out
    assert "missing picture" in table and "train 6, validation 6" in table


def test_a_column_that_scoring_would_write_over_is_an_error_of_the_sets_that_are_scored(spec):
    text = (spec.parent / "val.csv").read_text().splitlines()
    (spec.parent / "val.csv").write_text("\n".join(f"{line},error" for line in text) + "\n")
    assert check.run(str(spec)) == 0
    scored = [
        f"dataset.classify.test_dataset.{key}={spec.parent}/{name}"
        for key, name in (("csv_path", "val.csv"), ("images_dir", "images"))
    ]
    with pytest.raises(DataError, match=r"val.csv:1: has a column 'error'"):
        check.run(str(spec), scored)


@pytest.mark.parametrize("label", ["[/x]", "[red]", ":100:"])
def test_labels_are_shown_as_they_are(spec, capsys, label):
    with (spec.parent / "val.csv").open("a") as file:
        file.write(f"test,golden,{label},007\n")
    assert check.run(str(spec)) == 0, "a label that training does not have is a warning"
    assert label in capsys.readouterr().out


def test_every_split_without_a_folder_of_pictures_is_named(spec):
    with pytest.raises(SpecError) as caught:
        check.run(str(spec), [f"dataset.classify.{name}_dataset.images_dir=''" for name in ("train", "validation")])
    assert [problem.where for problem in caught.value.problems] == [
        f"dataset.classify.{name}_dataset.images_dir" for name in ("train", "validation")
    ]


def test_warnings_alone_end_with_zero(spec):
    text = (spec.parent / "train.csv").read_text()
    (spec.parent / "train.csv").write_text(text + text.splitlines()[1] + "\n")
    assert check.run(str(spec)) == 0


def test_json_is_the_only_thing_on_stdout(spec, capsys):
    (spec.parent / "images" / "test" / "002.png").write_bytes(b"")
    with pytest.raises(DataError):
        check.run(str(spec), json_output=True)
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False and report["rows"] == {"train": 6, "validation": 6}
    assert report["findings"]["unreadable_picture"]["count"] == 1


def test_the_command_exits_with_two_and_one_line_a_problem(spec):
    (spec.parent / "train.csv").write_text(
        "input_path,golden_path,label,object_name\ntest,golden,pass,000\ntest,golden,,001\n"
    )
    result = CliRunner().invoke(app, ["check", "-e", str(spec)])
    assert result.exit_code == 2
    assert [line.split(": ")[0] for line in result.stderr.splitlines() if line.startswith("error")] == [
        "error",
        "error",
    ]


def test_a_spec_without_data_is_a_spec_error(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(f"task: classify\nresults_dir: {tmp_path}/results\n")
    with pytest.raises(SpecError, match="csv_path"):
        check.run(str(path))
