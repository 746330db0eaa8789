"""`changenet quantize` from a spec file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import changenet
from changenet.bundle import read_bundle
from changenet.engines import engine_of
from changenet.engines.choice import self_test
from changenet.errors import CheckpointError, EngineError, SpecError
from changenet.evaluation.cost import Cost
from changenet.export import trace
from changenet.export.tensorrt import find_source
from changenet.spec import load_spec
from ray_jobs import export, quantize, quantize_comparison
from ray_jobs.evaluate import comparison_of
from ray_jobs.trained import TrainedNetwork

GRAPHS = ["quantize.backend=onnxruntime", "quantize.layers=[{module_name: '*', weights: {dtype: int8}}]"]
ALL = "quantize.layers=[{module_name: Linear, weights: {dtype: int8}}]"


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what would have been measured, in a process each: that has a test of its own."""
    models: list[Any] = []

    def note(model: Any, *, precision: str) -> Cost:
        models.append((model, precision))
        return Cost({"1": 2.0, "8": 10.0}, 800.0, 500.0)

    monkeypatch.setattr(quantize_comparison, "measure", note)
    return models


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


def test_what_is_wrong_with_the_path_or_the_spec_is_said(spec, bundle_folder) -> None:
    for key, action in (("quantize.model_path", quantize), ("export.checkpoint", export)):
        with pytest.raises(
            CheckpointError, match=rf"{key}: {bundle_folder} is a bundle, .* takes a checkpoint\. Name a"
        ):
            action.run(spec, [f"{key}={bundle_folder}"])
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


@pytest.fixture
def with_pairs(spec: str, pair_folder: Path, parts, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the spec with a training and a validation set; the network has been traced already."""
    monkeypatch.setattr(trace, "trace_parts", lambda _: parts)
    values = yaml.safe_load(Path(spec).read_text())
    values["dataset"] = {
        "classify": {
            f"{split}_dataset": {
                "csv_path": str(pair_folder / f"{name}.csv"),
                "images_dir": str(pair_folder / "images"),
            }
            for split, name in (("train", "train"), ("validation", "val"))
        }
    }
    Path(spec).write_text(yaml.safe_dump(values))
    return spec


def test_onnxruntime_writes_graphs_that_evaluate_reads_and_export_bundles(
    with_pairs, pairs, measured, tmp_path, capsys
) -> None:
    assert quantize.run(with_pairs, [*GRAPHS, "quantize.min_agreement=0.5"]) == 0
    folder = tmp_path / "results" / "quantize"
    figures = json.loads((folder / "comparison.json").read_text())
    assert figures["pairs"] == 24
    assert figures["agrees"] is True
    rows = figures["engines"]
    names = [(row["engine"], row["precision"]) for row in rows]
    assert names == [("torch", "fp32"), ("torch", "bf16"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")]
    assert [precision for _, precision in measured] == ["fp32", "bf16", "fp32", "fp32"]
    assert rows[0]["auroc"] == rows[2]["auroc"]
    assert 0 <= rows[3]["auroc"] <= 1
    assert rows[3]["size_mb"] < rows[2]["size_mb"]
    assert rows[3]["pairs_per_second"] == 800
    assert [row["agreement"] for row in rows] == [1.0, rows[1]["agreement"], None, figures["agreement"]]
    assert rows[1]["agreement"] >= 0.9
    assert 0 < rows[1]["max_score_difference"] < 0.1
    for known in (figures["checkpoint"], str(folder / "quantized_model_onnxruntime.pth")):
        assert comparison_of(known, str(folder)) == figures
    assert comparison_of("/elsewhere/model.pth", str(folder)) is None
    before, after = (engine_of(model).score(*pairs) for model, _ in measured[2:])
    np.testing.assert_allclose(before, engine_of(measured[0][0]).score(*pairs), atol=1e-4)
    assert 0 < np.abs(after - before).max() < 0.5
    assert 0 < figures["max_score_difference"] < 0.5
    path = str(folder / "quantized_model_onnxruntime.pth")
    loaded = load_spec(with_pairs, ["evaluate.is_quantized=true", f"evaluate.checkpoint={path}"])
    assert TrainedNetwork(loaded.experiment, "evaluate").engine == "onnxruntime"
    with pytest.raises(EngineError, match="torch engine"):
        changenet.load(path, engine="torch")

    assert export.run(with_pairs, [f"export.checkpoint={path}"]) == 0
    assert "of the decisions agree" in capsys.readouterr().out
    bundle = read_bundle(tmp_path / "results" / "export" / "bundle")
    (engine,) = bundle.manifest.engines
    assert (engine.precision, engine.parity.agreement) == ("int8", figures["agreement"])
    assert bundle.read("pair.onnx") == (folder / "quantized_model.onnx").read_bytes()
    inspector = changenet.load(bundle.folder)
    assert inspector.engine.precision == "int8"
    assert inspector.self_test() < 1e-4
    np.testing.assert_array_equal(inspector.score_arrays(*pairs), changenet.load(path).score_arrays(*pairs))


def test_one_that_disagrees_is_written_and_export_wants_force(with_pairs, tmp_path, caplog, monkeypatch) -> None:
    judge = quantize_comparison.judge_engines
    monkeypatch.setattr(quantize_comparison, "judge_engines", lambda *given: _other_decisions(judge(*given)))
    assert quantize.run(with_pairs, GRAPHS) == 0
    assert "less than quantize.min_agreement (0.99)" in caplog.text
    path = str(tmp_path / "results" / "quantize" / "quantized_model_onnxruntime.pth")
    with pytest.raises(EngineError, match=r"0\.00% of the quantized network's decisions .* --force"):
        export.run(with_pairs, [f"export.checkpoint={path}"])
    assert not (tmp_path / "results" / "export" / "bundle").exists()
    assert export.run(with_pairs, [f"export.checkpoint={path}"], force=True) == 0
    bundle = str(tmp_path / "results" / "export" / "bundle")
    with pytest.raises(EngineError, match=r"0\.00% of the decisions .* name the engine onnxruntime"):
        changenet.load(bundle)
    assert changenet.load(bundle, "onnxruntime").engine.precision == "int8"


def _other_decisions(found):
    reference, _, quantized = found
    quantized.predictions[:] = np.where(reference.predictions == "PASS", "FAIL", "PASS")
    return found


def test_pictures_alone_calibrate_with_a_warning(with_pairs, pair_folder, tmp_path, caplog) -> None:
    pictures = f"dataset.classify.quant_calibration_dataset.images_dir={pair_folder}/images/test"
    assert quantize.run(with_pairs, [*GRAPHS, pictures]) == 0
    assert "each of its 96 pictures is its own golden" in caplog.text
    assert (tmp_path / "results" / "quantize" / "quantized_model_onnxruntime.pth").exists()


def test_without_pairs_onnxruntime_says_which_set_to_name(spec) -> None:
    with pytest.raises(SpecError, match=r"quant_calibration_dataset: there is no calibration set"):
        quantize.run(spec, GRAPHS)


def test_torchao_becomes_a_bundle_that_pytorch_runs(with_pairs, pairs, tmp_path) -> None:
    key = "encryption_key=secret"
    assert quantize.run(with_pairs, [ALL, key]) == 0
    path = str(tmp_path / "results" / "quantize" / "quantized_model_torchao.pth")
    folder = tmp_path / "results" / "export" / "bundle"
    assert export.run(with_pairs, [f"export.checkpoint={path}", key]) == 0
    assert {each.name for each in folder.iterdir()} == {"manifest.json", "selftest.npz", "network.safetensors"}
    assert (folder / "network.safetensors").read_bytes().startswith(b"\x89CHGNET")
    assert not (tmp_path / "results" / "export" / "model.onnx").exists()
    bundle = read_bundle(folder, encryption_key="secret")
    (engine,) = bundle.manifest.engines
    assert (engine.runtime, engine.precision, engine.verified) == ("torch", "int8", True)
    served = changenet.load(str(folder), encryption_key="secret")
    assert (served.engine_name, served.engine.precision) == ("torch", "int8")
    assert self_test(served.engine, bundle) < 1e-6
    expected = changenet.load(path, encryption_key="secret")
    assert np.array_equal(served.score_arrays(*pairs), expected.score_arrays(*pairs))
    with pytest.raises(EngineError, match="holds no graphs for onnxruntime, but torch"):
        changenet.load(str(folder), "onnxruntime", encryption_key="secret")
    with pytest.raises(CheckpointError, match="holds no ONNX graphs, which engines are built from"):
        find_source(str(folder), encryption_key="secret")


@pytest.mark.parametrize(
    "wrong", ["export.onnx_file=model.onnx", "export.batch_size=2", "export.serialize_nvdsinfer=true"]
)
def test_a_torchao_bundle_has_no_graphs_to_give(spec, tmp_path, wrong) -> None:
    assert quantize.run(spec, [ALL]) == 0
    path = tmp_path / "results" / "quantize" / "quantized_model_torchao.pth"
    with pytest.raises((CheckpointError, EngineError), match=r"has (no ONNX graphs|none)"):
        export.run(spec, [f"export.checkpoint={path}", wrong], force=True)
    assert not (tmp_path / "results" / "export" / "bundle").exists()


def test_modelopt_writes_a_checkpoint_and_qdq_graphs(with_pairs, pairs, tmp_path) -> None:
    layers = "[{module_name: '*', weights: {dtype: int8}, activations: {dtype: int8}}]"
    chosen = ["quantize.backend=modelopt", f"quantize.layers={layers}", "quantize.min_agreement=0.5"]
    assert quantize.run(with_pairs, chosen) == 0
    folder = tmp_path / "results" / "quantize"
    path = str(folder / "quantized_model_modelopt.pth")
    figures = json.loads((folder / "comparison.json").read_text())
    assert figures["agrees"] is True
    inspector = changenet.load(path)
    assert (inspector.engine_name, inspector.engine.precision) == ("torch", "int8")
    assert export.run(with_pairs, [f"export.checkpoint={path}"]) == 0
    bundle = read_bundle(tmp_path / "results" / "export" / "bundle")
    assert bundle.manifest.engines[0].precision == "int8"
    assert bundle.manifest.exported_with["opset"] == "17"
    assert bundle.read("pair.onnx") == (folder / "quantized_model.onnx").read_bytes()
    served = changenet.load(bundle.folder)
    assert served.self_test() < 1e-4
    np.testing.assert_allclose(served.score_arrays(*pairs), inspector.score_arrays(*pairs), atol=0.1)


def test_modelopt_for_onnx_says_why_it_cannot_run(with_pairs) -> None:
    with pytest.raises(
        EngineError, match=r"quantize\.backend: 'modelopt\.onnx' needs other versions .* modelopt\.pytorch"
    ):
        quantize.run(with_pairs, ["quantize.backend=modelopt.onnx"])


@pytest.mark.parametrize(
    ("backend", "rule", "match"),
    [
        ("onnxruntime", "weights: {dtype: fp8_e4m3fn}", r"layers\[0\]\.weights\.dtype: is 'fp8_e4m3fn'"),
        ("modelopt", "weights: {dtype: int8}, activations: {dtype: native}", r"layers\[0\]: has one number format"),
    ],
)
def test_rules_that_a_backend_cannot_follow(spec, backend: str, rule: str, match: str) -> None:
    with pytest.raises(SpecError, match=match):
        quantize.run(spec, [f"quantize.backend={backend}", f"quantize.layers=[{{module_name: '*', {rule}}}]"])
