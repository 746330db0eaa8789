"""`changenet gen_trt_engine` from a spec file, with tensorrt-rtx for a GPU that is elsewhere."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import ray
import torch
import yaml
from typer.testing import CliRunner

from changenet import encryption, signing
from changenet.bundle import read_bundle
from changenet.engines.tensorrt_files import open_files
from changenet.errors import CheckpointError, EngineError, SpecError
from changenet.export.onnx import export_bundle
from changenet.sealing import seal
from changenet.spec import load_spec
from ray_jobs import evaluate, gen_trt_engine, sign, trained
from ray_jobs.cli import app
from ray_jobs.workers import Workers

pytest.importorskip("tensorrt_rtx")

ELSEWHERE = "gen_trt_engine.tensorrt.compute_capability=8.9"
ENGINES = {"encoder.engine", "golden.engine", "comparator.engine", "pair.engine"}


@pytest.fixture
def exported(bundle_folder: Path, tmp_path: Path) -> Path:
    """What `changenet export` left: `bundle/` and `model.onnx`."""
    folder = tmp_path / "results" / "export"
    shutil.copytree(bundle_folder, folder / "bundle")
    shutil.copy(bundle_folder.with_name("model.onnx"), folder)
    return folder


@pytest.fixture
def spec(exported: Path, tmp_path: Path) -> str:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"results_dir": str(tmp_path / "results")}))
    return str(path)


def test_engines_go_into_the_bundle_and_one_beside(spec: str, exported: Path, tmp_path: Path, capsys) -> None:
    cache = tmp_path / "timing.cache"
    assert gen_trt_engine.run(spec, [ELSEWHERE, f"gen_trt_engine.timing_cache={cache}"]) == 0
    printed = capsys.readouterr().out
    assert "fp32, compute capability 8.9" in printed
    assert "Built, and not run; batches of 1 to 8, best at 1" in printed
    assert cache.stat().st_size > 0
    folder = tmp_path / "results" / "gen_trt_engine"
    assert {path.name for path in folder.iterdir()} >= {"model.engine", "model.engine.json", "experiment.yaml"}
    assert json.loads((folder / "status.json").read_text().splitlines()[-1])["status"] == "SUCCESS"
    bundle = read_bundle(exported / "bundle")
    _, entry = bundle.manifest.engines
    assert (entry.runtime, entry.precision, entry.parity.max_error) == ("tensorrt", "fp32", None)
    assert entry.parity.reason == "it was built for a GPU that is elsewhere, and never run"
    assert not entry.verified
    assert set(entry.sha256) == ENGINES
    assert (folder / "model.engine").read_bytes() == bundle.read("pair.engine")
    files, _ = open_files(str(folder / "model.engine"))
    assert files.description == bundle.manifest.description
    with pytest.raises(CheckpointError, match=r"model\.engine: exists\. Add --overwrite"):
        gen_trt_engine.run(spec, [ELSEWHERE])


def test_the_onnx_file_leads_to_its_bundle_and_a_strange_one_to_none(spec: str, exported: Path, tmp_path: Path) -> None:
    half = "gen_trt_engine.tensorrt.data_type=FP16"
    names = [
        f"gen_trt_engine.onnx_file={exported / 'model.onnx'}",
        f"gen_trt_engine.trt_engine={tmp_path / 'a.engine'}",
    ]
    assert gen_trt_engine.run(spec, [ELSEWHERE, half, *names, "gen_trt_engine.batch_size=2"]) == 0
    entry = read_bundle(exported / "bundle").manifest.engines[1]
    assert (entry.precision, entry.tag["batch"]) == ("fp16", [2, 2, 2])
    alone = tmp_path / "alone.onnx"
    model = onnx.load(exported / "model.onnx")
    onnx.save(model, alone, save_as_external_data=True, location="alone.data")  # as others write large graphs
    names = [f"gen_trt_engine.onnx_file={alone}", f"gen_trt_engine.trt_engine={tmp_path / 'b.engine'}"]
    assert gen_trt_engine.run(spec, [ELSEWHERE, half, *names]) == 0
    with pytest.raises(EngineError, match="was built from an ONNX file alone"):
        open_files(str(tmp_path / "b.engine"))


def test_a_tao_spec_that_names_one_onnx_file_twice_gets_an_engine_that_evaluation_runs(
    spec: str, exported: Path, tmp_path: Path
) -> None:
    """TAO's deployment specs write `export.onnx_file` beside `results_dir/export`, and read it from there."""
    theirs = tmp_path / "results" / "changenet.onnx"
    shutil.move(exported / "model.onnx", theirs)
    engine = tmp_path / "results" / "changenet.engine"
    names = [f"gen_trt_engine.onnx_file={theirs}", f"gen_trt_engine.trt_engine={engine}"]
    assert gen_trt_engine.run(spec, [ELSEWHERE, *names]) == 0
    assert open_files(str(engine))[0].description == read_bundle(exported / "bundle").manifest.description
    theirs.write_bytes(onnx.load(theirs).SerializeToString() + b"\x12\x05other")  # another producer name
    with pytest.raises(CheckpointError, match="exists"):
        gen_trt_engine.run(spec, [ELSEWHERE, *names])
    assert gen_trt_engine.run(spec, [ELSEWHERE, *names], overwrite=True) == 0
    with pytest.raises(EngineError, match="was built from an ONNX file alone"):
        open_files(str(engine))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "batch_size"), [({"difference_module": "euclidean"}, 4), ({}, 3), ({"num_golden": 2}, -1)]
)
def test_every_kind_of_bundle_becomes_engines(
    make_checkpoint, tmp_path: Path, changes: dict[str, Any], batch_size: int
) -> None:
    bundle, path = tmp_path / "export" / "bundle", tmp_path / "spec.yaml"
    export_bundle(make_checkpoint(**changes), bundle, batch_size=batch_size)
    path.write_text(yaml.safe_dump({"results_dir": str(tmp_path)}))
    assert gen_trt_engine.run(str(path), [ELSEWHERE]) == 0
    opened = read_bundle(bundle)
    euclidean = opened.manifest.description.difference_module == "euclidean"
    assert set(opened.manifest.engines[1].sha256) == ENGINES - ({"golden.engine"} if euclidean else set())
    files, _ = open_files(str(tmp_path / "gen_trt_engine" / "model.engine"))
    assert files.description == opened.manifest.description


def test_another_engine_takes_the_place_of_the_first_with_overwrite(spec: str, exported: Path, tmp_path: Path) -> None:
    assert gen_trt_engine.run(spec, [ELSEWHERE]) == 0
    other = [ELSEWHERE, f"gen_trt_engine.trt_engine={tmp_path / 'other.engine'}"]
    with pytest.raises(CheckpointError, match="has a TensorRT engine already"):
        gen_trt_engine.run(spec, other)
    assert gen_trt_engine.run(spec, [*other, "gen_trt_engine.tensorrt.data_type=bf16"], overwrite=True) == 0
    entries = read_bundle(exported / "bundle").manifest.engines
    assert [(each.name, each.precision) for each in entries] == [("onnxruntime", "fp32"), ("tensorrt", "bf16")]


def test_with_a_key_the_engines_are_encrypted_and_a_signature_must_be_made_again(
    spec: str, exported: Path, tmp_path: Path, capsys
) -> None:
    folder, key = str(exported / "bundle"), str(tmp_path / "key")
    seal(folder, "secret", overwrite=True)
    signing.make_key_pair(key)
    sign.run([folder], key_file=key)
    with pytest.raises(CheckpointError, match="encryption_key"):
        gen_trt_engine.run(spec, [ELSEWHERE])
    assert gen_trt_engine.run(spec, [ELSEWHERE, "encryption_key=secret"]) == 0
    assert "Sign it again: changenet sign" in capsys.readouterr().err
    engine = tmp_path / "results" / "gen_trt_engine" / "model.engine"
    assert encryption.is_sealed(str(engine))
    assert all(encryption.is_sealed(str(exported / "bundle" / name)) for name in ENGINES)
    assert read_bundle(folder, encryption_key="secret").read("pair.engine")
    for wrong in (None, "wrong"):
        with pytest.raises(CheckpointError, match="encryption_key"):
            open_files(str(engine), encryption_key=wrong)
    with pytest.raises(CheckpointError, match="is not signed"):
        read_bundle(folder, trusted_keys=[f"{key}.pub"])


def test_without_a_gpu_or_tensorrt_it_ends_with_2_and_one_line(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        done = CliRunner().invoke(app, ["gen_trt_engine", "-e", spec])
        assert done.exit_code == 2
        assert "To build for a GPU elsewhere: gen_trt_engine.tensorrt.compute_capability" in done.stderr
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    for override, advice in (([], "changenet-ray[gpu]"), ([ELSEWHERE], "pip install tensorrt-rtx")):
        done = CliRunner().invoke(app, ["gen_trt_engine", "-e", spec, *override])
        assert done.exit_code == 2
        assert advice in done.stderr
        assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1


def test_what_is_wrong_with_the_spec_is_said(spec: str, exported: Path) -> None:
    with pytest.raises(SpecError, match="opt_batch_size: is 9, and batches are 1"):
        gen_trt_engine.run(spec, [ELSEWHERE, "gen_trt_engine.tensorrt.opt_batch_size=9"])
    with pytest.raises(SpecError, match="compute_capability"):
        gen_trt_engine.run(spec, ["gen_trt_engine.tensorrt.compute_capability=ada"])
    with pytest.raises(EngineError, match="no layer matches 'head'"):
        gen_trt_engine.run(spec, [ELSEWHERE, "gen_trt_engine.tensorrt.layers_precision=['head:fp16']"])
    shutil.rmtree(exported / "bundle")
    with pytest.raises(SpecError, match=r"gen_trt_engine\.onnx_file: not given, and there is no bundle at"):
        gen_trt_engine.run(spec, [ELSEWHERE])
    with pytest.raises(CheckpointError, match=r"/nowhere\.onnx: no such file"):
        gen_trt_engine.run(spec, [ELSEWHERE, "gen_trt_engine.onnx_file=/nowhere.onnx"])


def test_evaluation_takes_everything_but_a_gpu_from_the_engine_file(
    spec: str, exported: Path, tmp_path: Path, pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gen_trt_engine.run(spec, [ELSEWHERE, "gen_trt_engine.tensorrt.data_type=fp16"]) == 0
    engine = str(tmp_path / "results" / "gen_trt_engine" / "model.engine")
    data = (
        f"dataset.classify.test_dataset={{csv_path: {pair_folder / 'test.csv'}, images_dir: {pair_folder / 'images'}}}"
    )
    experiment = load_spec(spec, [f"evaluate.trt_engine={engine}", data]).experiment
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match=r"model\.engine: TensorRT runs on GPUs, and no worker has one"):
            trained.TrainedNetwork(experiment, "evaluate")  # Ray is not started for that
    network = trained.TrainedNetwork(experiment, "evaluate", address="elsewhere:6379")
    assert (network.engine, network.precision) == ("tensorrt", "fp16")
    assert network.description == read_bundle(exported / "bundle").manifest.description
    monkeypatch.setattr(trained.cluster, "connect", lambda _: None)
    monkeypatch.setattr(trained, "check_shared", lambda *_, **__: None)
    monkeypatch.setattr(trained, "plan_workers", lambda *_, **__: Workers())
    with pytest.raises(EngineError, match=r"TensorRT runs on GPUs, and no worker has one.*evaluate\.engine"):
        network.score(network.rows("test"), title="Scoring")


def test_evaluation_names_what_the_engine_lacks(spec: str, exported: Path, checkpoint_file: str) -> None:
    bundle = [f"evaluate.checkpoint={exported / 'bundle'}", "evaluate.engine=tensorrt"]
    with pytest.raises(EngineError, match="no TensorRT engine in this bundle"):
        evaluate.run(spec, bundle)
    with pytest.raises(CheckpointError, match=r"evaluate\.trt_engine: there is no /nowhere\.engine"):
        evaluate.run(spec, ["evaluate.trt_engine=/nowhere.engine"])
    with pytest.raises(EngineError, match="runs what changenet gen_trt_engine built"):
        evaluate.run(spec, [f"evaluate.checkpoint={checkpoint_file}", "evaluate.engine=tensorrt"])


@pytest.mark.parametrize("chosen", ["tensorrt", "onnxruntime"])
def test_the_engine_that_auto_takes_on_a_gpu_is_that_of_every_worker(
    chosen: str, spec: str, exported: Path, pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Node:
        """A machine with a GPU, as far as Ray and the engine can tell."""

        def remote(self, *_: object) -> tuple[str, str, str]:
            return chosen, "fp16", "10.9"

    given = []
    monkeypatch.setattr(trained.cluster, "connect", lambda _: None)
    monkeypatch.setattr(trained, "check_shared", lambda *_, **__: None)
    monkeypatch.setattr(trained, "plan_workers", lambda *_, **__: Workers(use_gpu=True))
    monkeypatch.setattr(trained, "score_rows", lambda *_, **named: given.append(named["model"]))
    monkeypatch.setattr(ray, "remote", lambda **_: lambda _: Node())
    monkeypatch.setattr(ray, "get", lambda found: found)
    data = f"dataset.classify.test_dataset={{csv_path: {pair_folder}/test.csv, images_dir: {pair_folder}/images}}"
    experiment = load_spec(spec, [f"evaluate.checkpoint={exported}/bundle", data]).experiment
    network = trained.TrainedNetwork(experiment, "evaluate")
    assert network.engine == "onnxruntime"  # here
    network.score(network.rows("test"), title="Scoring")
    assert (given[0].engine, network.engine, network.precision) == (chosen, chosen, "fp16")
