"""`changenet export` from a spec file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import changenet
from changenet.adoption import SpecDescribes
from changenet.bundle import read_bundle
from changenet.errors import CheckpointError, EngineError, SpecError
from changenet.export import onnx as onnx_export
from changenet.inspection import Inspector
from changenet.manifest import Parity
from changenet.spec import load_spec
from changenet.training.checkpoint import save_checkpoint
from ray_jobs import export
from ray_jobs.cli import app


@pytest.fixture
def spec(checkpoint_file: str, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a spec that exports the tiny checkpoint; its graphs have been traced already."""
    graphs = {path.name: path.read_bytes() for path in bundle_folder.glob("*.onnx")}
    monkeypatch.setattr(onnx_export, "export_graphs", lambda *_, **__: graphs)
    path = tmp_path / "spec.yaml"
    values = {"results_dir": str(tmp_path / "results"), "export": {"checkpoint": checkpoint_file}}
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_export_writes_bundle_and_onnx_file_and_says_so(spec: str, tmp_path: Path, capsys) -> None:
    assert export.run(spec) == 0
    folder = tmp_path / "results" / "export"
    assert {path.name for path in folder.iterdir()} >= {"bundle", "model.onnx", "experiment.yaml", "status.json"}
    assert (folder / "model.onnx").read_bytes() == (folder / "bundle" / "pair.onnx").read_bytes()
    assert read_bundle(folder / "bundle").manifest.engines[0].name == "onnxruntime"
    assert json.loads((folder / "status.json").read_text().splitlines()[-1])["status"] == "SUCCESS"
    printed = capsys.readouterr().out
    assert "Scores agree with the checkpoint" in printed
    assert "pair.onnx" in printed


def test_a_second_export_needs_overwrite(spec: str, tmp_path: Path) -> None:
    file = tmp_path / "pcb.onnx"
    assert export.run(spec, [f"export.onnx_file={file}"]) == 0
    assert not (tmp_path / "results" / "export" / "model.onnx").exists()
    with pytest.raises(CheckpointError, match="--overwrite"):
        export.run(spec, [f"export.onnx_file={file}"])
    assert export.run(spec, [f"export.onnx_file={file}"], overwrite=True) == 0


def test_deepstream_files_lie_beside_the_onnx_file(spec: str, tmp_path: Path) -> None:
    file = tmp_path / "deepstream" / "pcb.onnx"
    assert export.run(spec, [f"export.onnx_file={file}", "export.serialize_nvdsinfer=true"]) == 0
    assert {path.name for path in file.parent.iterdir()} == {
        "pcb.onnx",
        "labels.txt",
        "nvdsinfer_config.yaml",
        "nvdspreprocess_config_0.yaml",
        "nvdspreprocess_config_1.yaml",
    }
    assert "onnx-file: pcb.onnx" in (file.parent / "nvdsinfer_config.yaml").read_text()
    other = [f"export.onnx_file={file.with_name('other.onnx')}", "export.serialize_nvdsinfer=true"]
    with pytest.raises(CheckpointError, match=r"labels\.txt: exists\. Add --overwrite"):
        export.run(spec, other)


def test_a_copy_inside_the_bundle_is_refused(spec: str, tmp_path: Path) -> None:
    inside = f"export.onnx_file={tmp_path}/results/export/bundle/x.onnx"
    with pytest.raises(CheckpointError, match="would lie in a bundle"):
        export.run(spec, [inside, "export.serialize_nvdsinfer=true"])
    assert not (tmp_path / "results" / "export" / "bundle").exists()


def test_deepstream_cannot_read_an_encrypted_file(spec: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"serialize_nvdsinfer: DeepStream cannot read an encrypted ONNX file"):
        export.run(spec, ["encryption_key=secret", "export.serialize_nvdsinfer=true"])
    assert not (tmp_path / "results" / "export" / "bundle").exists()


def test_sizes_in_the_spec_must_be_the_checkpoints(spec: str) -> None:
    assert export.run(spec, ["export.input_width=32"]) == 0
    with pytest.raises(SpecError) as caught:
        export.run(spec, ["export.input_width=224", "export.input_height=64"], overwrite=True)
    assert "export.input_height: is 64" in str(caught.value)
    assert "export.input_width: is 224" in str(caught.value)


def test_decisions_on_validation_pairs_are_compared(
    spec: str, pair_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def parity() -> Parity:
        return read_bundle(tmp_path / "results" / "export" / "bundle").manifest.engines[0].parity

    assert export.run(spec) == 0
    assert parity().agreement is None
    assert "neither spec nor checkpoint names" in parity().reason
    assert "No decisions on real pairs were compared: neither spec" in caplog.text
    files = f"{{csv_path: {pair_folder}/val.csv, images_dir: {pair_folder}/images}}"
    assert export.run(spec, [f"dataset.classify.validation_dataset={files}"], overwrite=True) == 0
    assert (parity().agreement, parity().reason) == (1, "")
    assert "100.00% of the decisions on validation pairs" in " ".join(capsys.readouterr().out.split())
    gone = f"dataset.classify.validation_dataset={{csv_path: {tmp_path}/gone.csv, images_dir: {pair_folder}}}"
    assert export.run(spec, [gone], overwrite=True) == 0
    assert parity().agreement is None
    assert "gone.csv" in caplog.text


def test_a_checkpoint_must_be_named_and_there(spec: str) -> None:
    with pytest.raises(SpecError, match=r"export\.checkpoint: not given"):
        export.run(spec, ["export.checkpoint=null"])
    with pytest.raises(CheckpointError, match=r"export\.checkpoint: there is no /nowhere\.pth"):
        export.run(spec, ["export.checkpoint=/nowhere.pth"])


@pytest.mark.parametrize("key", ["secret", "${oc.env:LINE_KEY}", "${file:KEY_FILE}"])
def test_with_a_key_every_model_file_is_encrypted(
    spec: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINE_KEY", "secret")
    (tmp_path / "key").write_text("secret\n")
    assert export.run(spec, [f"encryption_key={key.replace('KEY_FILE', str(tmp_path / 'key'))}"]) == 0
    folder = tmp_path / "results" / "export"
    for path in [folder / "model.onnx", *(folder / "bundle").glob("*.onnx")]:
        assert path.read_bytes().startswith(b"\x89CHGNET"), path.name
    for path in folder.rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes(), path.name


def test_a_checkpoint_that_cannot_be_opened_is_one_line_and_writes_no_model(
    spec: str, checkpoint: Any, tmp_path: Path
) -> None:
    sealed = tmp_path / "sealed.pth"
    save_checkpoint(str(sealed), checkpoint, encryption_key="horse staple")
    whole = sealed.read_bytes()
    newer, changed = (whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :] for place in (8, 5000))
    for content, key, words in (
        (whole, "another", "wrong encryption key, or the file is damaged"),
        (whole, "", "encrypted, and there is no key"),
        (changed, "horse staple", "wrong encryption key, or the file is damaged"),
        (newer, "horse staple", "encrypted in format 3; this version reads up to 1. Upgrade changenet"),
    ):
        sealed.write_bytes(content)
        arguments = ["export", "-e", spec, f"export.checkpoint={sealed}", f"encryption_key={key}"]
        answer = CliRunner().invoke(app, arguments)
        assert answer.exit_code == 2, answer.output
        (line,) = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
        assert f"sealed.pth: {words}" in line
        assert "horse staple" not in answer.output + (tmp_path / "results" / "export" / "status.json").read_text()
    assert not (tmp_path / "results" / "export" / "bundle").exists()


def test_keys_that_contradict_the_checkpoint_are_listed(spec: str) -> None:
    with pytest.raises(SpecError) as caught:
        export.run(spec, ["model.classify.embed_dec=99", "model.backbone.type=fan_tiny_8_p4_hybrid"])
    assert {problem.where for problem in caught.value.problems} == {"model.classify.embed_dec", "model.backbone.type"}


@pytest.mark.slow
def test_a_tao_checkpoint_is_exported_with_its_spec(tao_spec: dict[str, Any], write_tao: Any, tmp_path: Path) -> None:
    theirs, path = write_tao("TAO.tlt"), tmp_path / "tao.yaml"
    values = {**tao_spec, "results_dir": str(tmp_path / "results"), "export": {"checkpoint": theirs}}
    path.write_text(yaml.safe_dump(values))
    assert export.run(str(path), ["model.classify.eval_margin=0.4"]) == 0
    bundle = changenet.load(str(tmp_path / "results" / "export" / "bundle"))
    experiment = load_spec(path).experiment
    checkpoint = Inspector.load(theirs, describe=SpecDescribes(experiment, theirs))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 32, 32), dtype=np.uint8)
    assert bundle.score_arrays(*pictures) == pytest.approx(checkpoint.score_arrays(*pictures), abs=1e-4)
    assert bundle.description.threshold.value == 0.4
