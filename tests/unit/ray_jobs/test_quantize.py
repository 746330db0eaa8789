"""`changenet quantize` from a spec file."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml

import changenet
from changenet.bundle import read_bundle
from changenet.engines.choice import self_test
from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.errors import CheckpointError, DataError, EngineError, SpecError
from changenet.evaluation.candidate import Candidate
from changenet.evaluation.cost import Cost
from changenet.evaluation.report.html import comparison_cells
from changenet.export import graphs, trace
from changenet.export.onnx import export_quantized
from changenet.export.tensorrt import find_source
from changenet.factory.quantization import quantization_rules
from changenet.model.merging import merged
from changenet.model.network import ChangeNet
from changenet.quantization.file import QuantizedCheckpoint, load_model
from changenet.spec import load_spec
from ray_jobs import export, quantize, quantize_backends, quantize_comparison
from ray_jobs.evaluate import comparison_of
from ray_jobs.quantize_backends import remaining
from ray_jobs.trained import TrainedNetwork

GRAPHS = ["quantize.backend=onnxruntime", "quantize.layers=[{module_name: '*', weights: {dtype: int8}}]"]
ALL = "quantize.layers=[{module_name: Linear, weights: {dtype: int8}}]"


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Candidate]:
    """Return what would have been measured, in a process each: that has a test of its own."""
    models: list[Candidate] = []

    def note(candidate: Candidate) -> Cost:
        models.append(candidate)
        return Cost({"1": 2.0, "8": 10.0}, 800.0, 500.0)

    monkeypatch.setattr(quantize_comparison, "measure", note)
    return models


@pytest.fixture
def spec(checkpoint_file: str, parts: trace.Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a spec for the tiny network, which has been traced already."""
    for module in (trace, graphs):
        monkeypatch.setattr(module, "trace_parts", lambda *_, **__: parts)
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


def test_what_this_processor_has_no_instructions_for_is_not_compared(spec, measured, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(quantize, "computes_in", lambda *_: False)
    assert quantize.run(spec, [ALL]) == 0
    names = [("torch", "fp32"), ("onnxruntime", "fp32"), ("torch", "int8")]
    assert [(each.engine, each.precision) for each in measured] == names


def test_what_does_not_run_on_the_gpu_is_left_out(spec, measured, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(quantize.torch.cuda, "is_available", lambda: True)  # a driver, and packages without CUDA
    assert quantize.run(spec, [ALL]) == 0
    assert {each.device for each in measured} == {"cpu"}
    assert caplog.text.count("on the GPU is left out") == len(measured)


def test_without_onnxruntime_pytorch_alone_is_compared(spec, measured, monkeypatch, caplog) -> None:
    def missing() -> None:
        raise EngineError("onnxruntime is not installed")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(quantize, "import_onnxruntime", missing)
    assert quantize.run(spec, [ALL]) == 0
    assert {each.engine for each in measured} == {"torch"}
    assert "ONNX Runtime is left out: onnxruntime is not installed" in caplog.text


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


@pytest.fixture
def with_pairs(spec: str, pair_folder: Path) -> str:
    """Return the spec with a training and a validation set."""
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
    with_pairs, pairs, measured, tmp_path, capsys, caplog, monkeypatch
) -> None:
    monkeypatch.setattr(quantize, "computes_in", lambda *_: True)
    assert quantize.run(with_pairs, [*GRAPHS, "quantize.min_agreement=0.5"]) == 0
    folder = tmp_path / "results" / "quantize"
    figures = json.loads((folder / "comparison.json").read_text())
    assert figures["pairs"] == 24
    assert figures["agrees"] is True
    rows = figures["engines"]
    names = [(row["engine"], row["precision"]) for row in rows]
    assert names == [("torch", "fp32"), ("torch", "bf16"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")]
    assert [(each.engine, each.precision) for each in measured] == names
    assert rows[2]["auroc"] == pytest.approx(rows[0]["auroc"], abs=0.01)
    assert 0 <= rows[3]["auroc"] <= 1
    assert rows[3]["size_mb"] < rows[2]["size_mb"]
    assert rows[3]["pairs_per_second"] == 800
    assert [row["agreement"] for row in rows] == [1.0, rows[1]["agreement"], 1.0, figures["agreement"]]
    assert rows[1]["agreement"] >= 0.9
    assert 0 < rows[1]["max_score_difference"] < 0.1
    assert 0 < rows[2]["max_score_difference"] < 1e-4  # judged as an engine of its own: equal but for rounding
    assert figures["artifact"] == "quantized_model_onnxruntime.pth"
    for known in (figures["checkpoint"], str(folder / figures["artifact"])):
        assert comparison_of(known, str(folder)) == figures
    before, after = (each.open().score(*pairs) for each in measured[2:])
    np.testing.assert_allclose(before, measured[0].open().score(*pairs), atol=1e-4)
    assert 0 < np.abs(after - before).max() < 0.5
    assert 0 < figures["max_score_difference"] < 0.5
    path = str(folder / "quantized_model_onnxruntime.pth")
    loaded = load_spec(with_pairs, ["evaluate.is_quantized=true", f"evaluate.checkpoint={path}"])
    assert TrainedNetwork(loaded.experiment, "evaluate").engine == "onnxruntime"
    with pytest.raises(EngineError, match="torch engine"):
        changenet.load(path, engine="torch")

    chosen = [f"export.checkpoint={path}", "export.serialize_nvdsinfer=true"]
    with pytest.raises(EngineError, match=r"TensorRT, which cannot run what onnxruntime quantized.*modelopt\.pytorch"):
        export.run(with_pairs, chosen)
    assert export.run(with_pairs, [f"export.checkpoint={path}", "export.opset_version=20"]) == 0
    assert "export.opset_version: 20 has no effect" in caplog.text
    assert "of the decisions agree" in capsys.readouterr().out
    bundle = read_bundle(tmp_path / "results" / "export" / "bundle")
    (engine,) = bundle.manifest.engines
    assert (engine.precision, engine.parity.agreement) == ("int8", figures["agreement"])
    assert bundle.read("pair.onnx") == (folder / "quantized_model.onnx").read_bytes()
    inspector = changenet.load(bundle.folder)
    assert inspector.engine.precision == "int8"
    assert inspector.self_test() < 1e-4
    np.testing.assert_array_equal(inspector.score_arrays(*pairs), changenet.load(path).score_arrays(*pairs))


def test_the_pair_graph_of_integers_must_give_the_scores_of_the_other_graphs(
    with_pairs, pairs, tmp_path, monkeypatch
) -> None:
    assert quantize.run(with_pairs, [*GRAPHS, "quantize.min_agreement=0.5"]) == 0
    checkpoint = load_model(str(tmp_path / "results" / "quantize" / "quantized_model_onnxruntime.pth"))
    assert isinstance(checkpoint, QuantizedCheckpoint)
    exported = export_quantized(checkpoint, tmp_path / "three", batch_size=3)
    assert exported.parity.agreement == checkpoint.agreement
    bundle = read_bundle(tmp_path / "three")
    assert bundle.manifest.batch_size == 3
    graph = onnx.load_from_string(bundle.read("pair.onnx")).graph
    assert [each.type.tensor_type.shape.dim[0].dim_value for each in [*graph.input, *graph.output]] == [3, 3, 3]
    engine = changenet.load(str(tmp_path / "three")).engine
    mean, std = (np.array(checkpoint.description.network[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    floats = (((each[:3] / 255 - mean) / std).astype(np.float32) for each in pairs)
    wanted = engine.score(*(each[:3] for each in pairs))
    np.testing.assert_allclose(engine.scores(engine.pair(*floats)), wanted, atol=0.05)
    monkeypatch.setattr(OnnxRuntimeEngine, "pair", lambda _, test, __: np.tile(np.float32([9, -9]), (len(test), 1)))
    with pytest.raises(
        EngineError, match=r"onnxruntime \(int8\).*the score of pair\.onnx drifts first.*Quantize it again"
    ):
        export_quantized(checkpoint, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


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
    reference, *_, quantized = found
    quantized.predictions[:] = np.where(reference.predictions == "PASS", "FAIL", "PASS")
    return found


MODELS = {
    "torchao": {"quantized_model_torchao.pth"},
    "onnxruntime": {"quantized_model_onnxruntime.pth", "quantized_model.onnx"},
    "modelopt": {"quantized_model_modelopt.pth", "quantized_model.onnx"},
}


@pytest.mark.parametrize("backend", MODELS)
def test_with_a_key_only_ciphertext_is_written(with_pairs, tmp_path, backend: str) -> None:
    rules = "quantize.layers=[{module_name: 'head.*', weights: {dtype: int8}, activations: {dtype: int8}}]"
    assert quantize.run(with_pairs, [f"quantize.backend={backend}", rules, "encryption_key=secret"]) == 0
    folder = tmp_path / "results" / "quantize"
    sealed = {path.name for path in folder.iterdir() if path.is_file() and path.read_bytes().startswith(b"\x89CHGNET")}
    assert sealed == MODELS[backend]
    for path in folder.rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes(), path.name
    assert changenet.load(str(folder / f"quantized_model_{backend}.pth"), encryption_key="secret")


def test_a_comparison_is_shown_of_the_file_that_it_is_about_alone(spec, checkpoint_file, tmp_path, caplog) -> None:
    assert quantize.run(spec, [ALL]) == 0
    folder = tmp_path / "results" / "quantize"
    path, elsewhere = str(folder / "quantized_model_torchao.pth"), str(tmp_path / "elsewhere")
    copied = shutil.copy(checkpoint_file, tmp_path / "copy.pth")
    for known in (path, checkpoint_file, str(copied)):  # told by the content, not by the name
        found = comparison_of(known, str(folder))
        assert found is not None
        assert found["artifact"] == "quantized_model_torchao.pth"
    bundle = str(tmp_path / "results" / "export" / "bundle")
    assert export.run(spec, [f"export.checkpoint={checkpoint_file}"]) == 0
    assert comparison_of(bundle, str(folder)) == found
    other = folder / "quantized_model_onnxruntime.pth"
    other.write_bytes(b"of another run")
    assert comparison_of(str(other), str(folder)) is None
    assert comparison_of(checkpoint_file, elsewhere) is None
    for content in ("{", "[]", "{}", '{"engines": []}'):
        (folder / "comparison.json").write_text(content)
        caplog.clear()
        assert comparison_of(path, elsewhere) is None
        assert "comparison.json is left out of the report" in caplog.text


def test_a_set_that_is_wrong_is_said_before_the_long_work(with_pairs, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(quantize_backends.BACKENDS, "torchao", pytest.fail)
    gone = f"dataset.classify.validation_dataset.csv_path={tmp_path}/gone.csv"
    with pytest.raises(DataError, match=r"gone\.csv"):
        quantize.run(with_pairs, [ALL, gone])


def test_what_was_quantized_is_kept_when_it_cannot_be_compared(with_pairs, monkeypatch, tmp_path) -> None:
    def unreadable(*_: object) -> None:
        raise DataError("no picture", where="test/x.png")

    monkeypatch.setattr(quantize_comparison, "judge_engines", unreadable)
    with pytest.raises(DataError, match="no picture"):
        quantize.run(with_pairs, [ALL])
    path = str(tmp_path / "results" / "quantize" / "quantized_model_torchao.pth")
    assert changenet.load(path).engine.precision == "int8"
    with pytest.raises(EngineError, match="was compared with nothing"):
        export.run(with_pairs, [f"export.checkpoint={path}"])


def test_without_a_measurement_there_are_still_decisions(with_pairs, monkeypatch, tmp_path, caplog) -> None:
    def ended(_: Candidate) -> None:
        raise EngineError("the process that measures ended early")

    monkeypatch.setattr(quantize_comparison, "measure", ended)
    assert quantize.run(with_pairs, [ALL]) == 0
    assert "torch int8 has no figures of time and memory: the process that measures ended early" in caplog.text
    figures = json.loads((tmp_path / "results" / "quantize" / "comparison.json").read_text())
    assert figures["agreement"] is not None
    assert {row["memory_mb"] for row in figures["engines"]} == {None}
    assert comparison_cells(figures["engines"][-1])[-4:] == ["", "", "", ""]


def test_layers_that_are_not_there_when_it_runs_are_named(caplog) -> None:
    caplog.set_level(logging.INFO)
    network = merged(ChangeNet(backbone="timm/test_efficientnet", image_size=(32, 32), embed_dim=64))
    gone = dict.fromkeys(("pyramid.project.0", "pyramid.project.1"), "int8")
    kept = {"head.layers.0": "int8"}
    assert remaining({**gone, **kept}, kept, network) == kept
    assert "Not quantized: pyramid.project.0 (merged into the layer behind it), pyramid" in caplog.text
    with pytest.raises(SpecError, match=r"quantize\.layers: the rules choose only .* head\.layers\.0 \(never runs\)"):
        remaining(kept, {}, network)


def test_rules_whose_layers_are_all_merged_away_leave_nothing(with_pairs, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("changenet.export.int8.quantize_parts", lambda parts, *_, **__: (parts, set()))
    rules = "quantize.layers=[{module_name: 'pyramid.project.*', weights: {dtype: int8}}]"
    with pytest.raises(
        SpecError, match=r"quantize\.layers: the rules choose only layers that are not there .*pyramid\.project\.0"
    ):
        quantize.run(with_pairs, ["quantize.backend=onnxruntime", rules])
    assert not list((tmp_path / "results").rglob("*.pth"))


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
    with pytest.raises(
        (CheckpointError, EngineError), match=r"has no ONNX graphs|what torchao quantized.*backend: modelopt\.pytorch"
    ):
        export.run(spec, [f"export.checkpoint={path}", wrong], force=True)
    assert not (tmp_path / "results" / "export" / "bundle").exists()


@pytest.mark.parametrize("dtype", ["int8", pytest.param("fp8_e4m3fn", marks=pytest.mark.slow)])
def test_modelopt_writes_a_checkpoint_and_qdq_graphs(with_pairs, pairs, tmp_path, dtype: str) -> None:
    layers = f"[{{module_name: '*', weights: {{dtype: {dtype}}}, activations: {{dtype: {dtype}}}}}]"
    precision = dtype.partition("_")[0]
    chosen = ["quantize.backend=modelopt", f"quantize.layers={layers}", "quantize.min_agreement=0.5"]
    assert quantize.run(with_pairs, chosen) == 0
    folder = tmp_path / "results" / "quantize"
    path = str(folder / "quantized_model_modelopt.pth")
    figures = json.loads((folder / "comparison.json").read_text())
    assert figures["agrees"] is True
    assert (figures["engines"][-1]["engine"], figures["engines"][-1]["precision"]) == ("onnxruntime", precision)
    state = torch.load(path, weights_only=True)["model_state_dict"]
    assert "head.layers.2.running_var" not in state, "the network is merged first"
    inspector = changenet.load(path)
    assert (inspector.engine_name, inspector.engine.precision) == ("torch", precision)
    assert export.run(with_pairs, [f"export.checkpoint={path}"]) == 0
    bundle = read_bundle(tmp_path / "results" / "export" / "bundle")
    assert bundle.manifest.engines[0].precision == precision
    assert bundle.manifest.exported_with["opset"] == "19"
    assert bundle.read("pair.onnx") == (folder / "quantized_model.onnx").read_bytes()
    served = changenet.load(bundle.folder)
    assert served.self_test() < 1e-4
    np.testing.assert_allclose(served.score_arrays(*pairs), inspector.score_arrays(*pairs), atol=0.1)
    loaded = load_spec(with_pairs, ["evaluate.is_quantized=true", f"evaluate.checkpoint={bundle.folder}"])
    network = TrainedNetwork(loaded.experiment, "evaluate")
    assert (network.engine, network.precision) == ("onnxruntime", precision)


def test_graphs_of_modelopt_that_fail_leave_the_checkpoint_of_the_long_calibration(
    with_pairs, tmp_path, monkeypatch, caplog
) -> None:
    from changenet.export import qdq

    def fail(*_, **__):
        raise EngineError("the graphs drift at 'encoder'")

    rule = "quantize.layers=[{module_name: 'head.*', weights: {dtype: int8}}]"
    folder = tmp_path / "results" / "quantize"
    folder.mkdir(parents=True)
    (folder / "quantized_model.onnx").write_bytes(b"of an earlier run")
    monkeypatch.setattr(qdq, "check_parity", fail)
    with pytest.raises(EngineError, match="drift"):
        quantize.run(with_pairs, ["quantize.backend=modelopt", rule])
    path = str(folder / "quantized_model_modelopt.pth")
    assert f"{path} is written, and runs in PyTorch" in caplog.text
    assert changenet.load(path).engine_name == "torch"
    assert json.loads((folder / "comparison.json").read_text())["engines"] == []
    assert not (folder / "quantized_model.onnx").exists()


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


def test_what_another_backend_left_keeps_a_name_of_its_own(with_pairs, tmp_path) -> None:
    folder = tmp_path / "results" / "quantize"
    assert quantize.run(with_pairs, GRAPHS) == 0
    before = {name: (folder / name).read_bytes() for name in ("quantized_model.onnx", "comparison.json")}
    for _ in range(2):  # the second run of a backend replaces its own alone
        assert quantize.run(with_pairs, [ALL]) == 0
    assert (folder / "quantized_model_onnxruntime.onnx").read_bytes() == before["quantized_model.onnx"]
    assert (folder / "comparison_onnxruntime.json").read_bytes() == before["comparison.json"]
    assert json.loads((folder / "comparison.json").read_text())["backend"] == "torchao"
    assert not (folder / "quantized_model.onnx").exists()
    rule = "quantize.layers=[{module_name: 'head.*', weights: {dtype: int8}}]"
    assert quantize.run(with_pairs, ["quantize.backend=modelopt", rule]) == 0
    for backend in MODELS:
        artifact = folder / f"quantized_model_{backend}.pth"
        assert str((comparison_of(str(artifact), str(folder)) or {})["backend"]).startswith(backend)
        bundle = tmp_path / backend / "bundle"
        export_quantized(load_model(str(artifact)), bundle, force=True)
        assert str((comparison_of(str(bundle), str(folder)) or {})["backend"]).startswith(backend)


def test_a_run_that_is_stopped_while_it_compares_says_whose_files_there_are(with_pairs, tmp_path, monkeypatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "results" / "quantize"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(quantize, "judge", stop)
        quantize.run(with_pairs, GRAPHS)
    graph = (folder / "quantized_model.onnx").read_bytes()
    assert comparison_of(str(folder / "quantized_model_onnxruntime.pth"), str(folder)) is None
    assert quantize.run(with_pairs, [ALL]) == 0
    assert (folder / "quantized_model_onnxruntime.onnx").read_bytes() == graph


@pytest.mark.parametrize("kind", ["weights", "activations"])
def test_a_rule_for_one_tensor_of_a_layer_says_that_both_are_quantized(spec, caplog, kind: str) -> None:
    loaded = load_spec(
        spec, ["quantize.backend=onnxruntime", f"quantize.layers=[{{module_name: '*', {kind}: {{dtype: int8}}}}]"]
    )
    assert [rule.dtype for rule in quantization_rules(loaded.experiment)] == ["int8"]
    assert "names weights or activations alone" in caplog.text
