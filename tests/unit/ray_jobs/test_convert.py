from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import changenet
from changenet import encryption
from changenet.adoption import SpecDescribes
from changenet.errors import CheckpointError, SpecError
from changenet.inspection import Inspector
from changenet.spec import load_spec
from changenet.training.checkpoint import load_checkpoint, save_checkpoint
from ray_jobs import convert
from ray_jobs.cli import app

Write = Callable[..., str]


@pytest.fixture
def spec(tao_spec: dict[str, Any], tmp_path: Path) -> str:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(tao_spec))
    return str(path)


def test_the_converted_file_needs_no_spec_and_gives_the_same_scores(
    spec: str, write_tao: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write_tao(), str(tmp_path / "new" / "ours.pth")
    assert convert.run(source, spec, target, ["model.classify.eval_margin=0.4"]) == 0
    experiment = load_spec(spec).experiment
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 32, 32), dtype=np.uint8)
    before = Inspector.load(source, describe=SpecDescribes(experiment, source))
    after = changenet.load(target)
    assert (after.score_arrays(*pictures) == before.score_arrays(*pictures)).all()
    assert (after.description.threshold.value, after.description.image_ext) == (0.4, ".png")
    assert after.description.versions == {"pytorch-lightning": "2.4.0"}
    assert load_checkpoint(target).training is None
    printed = capsys.readouterr().out
    for fact in ("fan_tiny_8_p4_hybrid, learnable", "0.4", "[1.0, 10.0]", "states no spec", target):
        assert fact in printed


def test_the_spec_inside_is_held_against_the_one_given(
    spec: str, write_tao: Write, tmp_path: Path, capsys: Any
) -> None:
    stated = {"model": {"classify": {"embed_dec": 6}}, "dataset": {"classify": {"num_input": 1, "input_map": None}}}
    source, target = write_tao(hyper_parameters=stated), tmp_path / "ours.pth"
    with pytest.raises(SpecError, match=r"embed_dec: is 7, but .* was trained with 6"):
        convert.run(source, spec, str(target), ["model.classify.embed_dec=7"])
    assert not target.exists()
    convert.run(source, spec, str(target))
    assert "agrees with it" in capsys.readouterr().out


def test_a_file_is_replaced_only_when_asked_and_never_the_source(spec: str, write_tao: Write, tmp_path: Path) -> None:
    source, target = write_tao(), tmp_path / "ours.pth"
    target.write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="--overwrite"):
        convert.run(source, spec, str(target))
    assert target.read_bytes() == b"mine"
    before = Path(source).read_bytes()
    with pytest.raises(CheckpointError, match="exists"):
        convert.run(source, spec, source, overwrite=True)
    assert Path(source).read_bytes() == before
    assert convert.run(source, spec, str(target), overwrite=True) == 0
    assert target.read_bytes() != b"mine"


def test_with_a_key_only_ciphertext_is_written(spec: str, write_tao: Write, tmp_path: Path) -> None:
    target = str(tmp_path / "ours.pth")
    convert.run(write_tao(), spec, target, ["encryption_key=horse staple"])
    assert encryption.is_sealed(target)
    assert load_checkpoint(target, encryption_key="horse staple").state


def test_what_is_no_tao_checkpoint_is_refused(spec: str, write_tao: Write, tmp_path: Path, checkpoint: Any) -> None:
    ours, other = str(tmp_path / "ours.pth"), tmp_path / "other.pth"
    save_checkpoint(ours, checkpoint)
    torch.save({"a": torch.ones(1)}, other)
    for source, words in (
        (ours, "no checkpoint of TAO"),
        (str(other), "no checkpoint of TAO"),
        (str(tmp_path / "gone.pth"), "no such file"),
        (write_tao("sealed.pth", state_dict=None, state_dict_encrypted=b"x"), "encrypted by TAO"),
        (write_tao("masks.pth", tao_model="visual_changenet_segment"), "visual_changenet_segment"),
    ):
        with pytest.raises(CheckpointError, match=words):
            convert.run(source, spec, str(tmp_path / "out.pth"))
    assert not (tmp_path / "out.pth").exists()


def test_align_corners_is_said_to_be_off(
    spec: str, write_tao: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "ours.pth")
    with caplog.at_level(logging.WARNING):
        convert.run(write_tao(), spec, target, ["model.decode_head.align_corners=true"])
    assert "align_corners is off" in caplog.text
    assert "align_corners is off" in capsys.readouterr().out
    assert load_checkpoint(target).description.network["align_corners"] is False


def test_the_verb_teaches() -> None:
    answer = CliRunner().invoke(app, ["convert", "--help"], env={"COLUMNS": "100"})
    assert answer.exit_code == 0
    for words in ("--from", "--to", "--overwrite", "Nothing inside the file is run", "changenet.load"):
        assert words in answer.stdout
