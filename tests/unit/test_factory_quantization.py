"""Which pairs a quantization sees and is compared on: those of the spec, else those of the checkpoint's own spec."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from changenet.data.calibration import drawn
from changenet.errors import DataError, SpecError
from changenet.factory.quantization import calibration_pairs, open_set, validation_pairs
from changenet.spec import Experiment, load_spec
from ray_jobs import quantize_comparison
from ray_jobs.quantize_comparison import draw_sample


@pytest.fixture
def files(pair_folder: Path) -> Any:
    def named(*splits: str, **others: str) -> dict[str, Any]:
        """Return a spec's sets; `train="gone"` names a file that is not there."""
        images, names = str(pair_folder / "images"), {**{split: split for split in splits}, **others}
        return {
            f"{'quant_calibration' if split == 'calibration' else split}_dataset": {
                "csv_path": str(
                    pair_folder / f"{name.replace('validation', 'val').replace('calibration', 'infer')}.csv"
                ),
                "images_dir": images,
            }
            for split, name in names.items()
        }

    return named


def experiment(folder: Path, sets: dict[str, Any]) -> Experiment:
    (folder / "spec.yaml").write_text(yaml.safe_dump({"task": "classify", "dataset": {"classify": sets}}))
    return load_spec(folder / "spec.yaml").experiment


def trained_with(checkpoint: Any, sets: dict[str, Any]) -> Any:
    return replace(checkpoint.description, spec={"task": "classify", "dataset": {"classify": sets}})


def name_of(source: Any) -> str:
    return Path(source.annotations.path).name


def test_the_sets_of_the_spec_win_and_what_is_wrong_with_them_is_an_error(checkpoint, files, tmp_path) -> None:
    description = trained_with(checkpoint, files("train", "validation"))
    spec = experiment(tmp_path, files("test", "train"))
    source, reason = open_set(spec, description, ("validation", "test", "train"))
    assert (name_of(source), reason) == ("test.csv", "")
    with pytest.raises(DataError, match=r"gone\.csv"):
        open_set(experiment(tmp_path, files(train="gone")), description, ("train",))


def test_else_the_checkpoints_own_sets_are_taken_and_named(checkpoint, files, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO)
    spec = experiment(tmp_path, {})
    description = trained_with(checkpoint, files("train", "validation"))
    sample = draw_sample(spec, description)
    assert sample is not None
    assert name_of(sample.source) == "val.csv"
    assert "val.csv: the validation set that the checkpoint's spec names" in caplog.text
    assert name_of(calibration_pairs(spec, description)[0]) == "train.csv"
    assert sum(len(test) for test, _ in validation_pairs(spec, description, 3)) == 3


def test_sets_of_the_checkpoint_that_are_not_here_are_left_out(checkpoint, files, tmp_path, caplog) -> None:
    spec = experiment(tmp_path, {})
    description = trained_with(checkpoint, files("train", validation="gone"))
    sample = draw_sample(spec, description)
    assert sample is not None
    assert name_of(sample.source) == "train.csv"
    gone = trained_with(checkpoint, files(train="gone"))
    assert draw_sample(spec, gone) is None
    assert "No decisions are compared" in caplog.text
    assert "gone.csv" in caplog.text
    with pytest.raises(SpecError, match=r"quant_calibration_dataset: there is no calibration set .*gone\.csv"):
        calibration_pairs(spec, gone)


def test_labels_take_turns_for_ranges_and_not_in_comparisons(checkpoint, files, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(quantize_comparison, "COMPARED", 12)
    monkeypatch.setattr("changenet.factory.quantization.CALIBRATION_PAIRS", 12)
    spec = experiment(tmp_path, files("train"))
    source, rows = calibration_pairs(spec, checkpoint.description)
    labels: Any = source.annotations.labels  # type: ignore[attr-defined]
    assert sorted(labels[rows]) == ["PASS"] * 4 + ["bridge"] * 4 + ["missing"] * 4
    sample = draw_sample(spec, checkpoint.description)
    assert sample is not None
    assert sample.rows == drawn(24, 12)
    assert sample.is_defect is not None
    assert sample.is_defect.shape == (12,)


def test_a_calibration_set_needs_no_labels_and_wins(checkpoint, files, tmp_path) -> None:
    source, rows = calibration_pairs(experiment(tmp_path, files("train", "calibration")), checkpoint.description)
    assert name_of(source) == "infer.csv"
    assert len(rows) == 24
