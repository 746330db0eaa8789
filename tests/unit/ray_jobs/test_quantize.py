"""`changenet quantize` from a spec file."""

from pathlib import Path

import numpy as np
import pytest
import yaml

import changenet
from changenet.errors import CheckpointError, SpecError
from changenet.spec import load_spec
from ray_jobs import quantize
from ray_jobs.trained import TrainedNetwork

ALL = "quantize.layers=[{module_name: Linear, weights: {dtype: int8}}]"


@pytest.fixture
def spec(checkpoint_file: str, tmp_path: Path) -> str:
    path = tmp_path / "spec.yaml"
    values = {"results_dir": str(tmp_path / "results"), "quantize": {"model_path": checkpoint_file}}
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_torchao_writes_a_checkpoint_that_describes_itself(spec, checkpoint_file, pairs, tmp_path, capsys) -> None:
    assert quantize.run(spec, [ALL]) == 0
    path = str(tmp_path / "results" / "quantize" / "quantized_model_torchao.pth")
    assert "3 layers in int8" in capsys.readouterr().out
    ours, theirs = changenet.load(path), changenet.load(checkpoint_file)
    assert ours.description == theirs.description
    difference = np.abs(ours.score_arrays(*pairs) - theirs.score_arrays(*pairs)).max()
    assert 0 < difference < 0.05


def test_is_quantized_takes_the_file_and_refuses_another(spec, checkpoint_file, tmp_path) -> None:
    assert quantize.run(spec, [ALL]) == 0
    path = str(tmp_path / "results" / "quantize" / "quantized_model_torchao.pth")
    for action in ("evaluate", "inference"):
        chosen = [f"{action}.is_quantized=true", f"{action}.checkpoint="]
        loaded = load_spec(spec, [chosen[0], chosen[1] + path])
        assert not [line for line in loaded.warnings if "is_quantized" in line]
        assert TrainedNetwork(loaded.experiment, action).engine == "torch"
        with pytest.raises(SpecError, match=f"{action}.is_quantized: is true"):
            TrainedNetwork(load_spec(spec, [chosen[0], chosen[1] + checkpoint_file]).experiment, action)


def test_without_a_rule_the_candidates_are_listed_and_nothing_is_written(spec, tmp_path) -> None:
    with pytest.raises(SpecError, match=r"head\.layers\.0, head\.layers\.3, head\.layers\.6"):
        quantize.run(spec)
    assert not list((tmp_path / "results").rglob("*.pth"))


def test_what_is_wrong_with_the_path_or_the_spec_is_said(spec) -> None:
    with pytest.raises(SpecError, match=r"quantize\.model_path: not given"):
        quantize.run(spec, [ALL, "quantize.model_path=null"])
    with pytest.raises(CheckpointError, match=r"quantize\.model_path: there is no /nowhere\.pth"):
        quantize.run(spec, [ALL, "quantize.model_path=/nowhere.pth"])
    with pytest.raises(SpecError, match=r"model\.classify\.embed_dec: is 99"):
        quantize.run(spec, [ALL, "model.classify.embed_dec=99"])


def test_with_a_key_only_ciphertext_is_written(spec, tmp_path) -> None:
    assert quantize.run(spec, [ALL, "encryption_key=secret"]) == 0
    folder = tmp_path / "results" / "quantize"
    assert (folder / "quantized_model_torchao.pth").read_bytes().startswith(b"\x89CHGNET")
    for path in folder.rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes(), path.name
