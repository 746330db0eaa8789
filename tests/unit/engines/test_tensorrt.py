"""The TensorRT engine with ONNX Runtime in the place of the GPU: cutting, filling up, roads, files, and who may open them."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from changenet.bundle import add_engine, read_bundle
from changenet.engines import choice, load_engine
from changenet.engines import tensorrt as engine_module
from changenet.engines.tensorrt import TensorRtEngine
from changenet.engines.tensorrt_files import open_files, write_engine_file
from changenet.errors import CheckpointError, DataError, EngineError
from changenet.export import tensorrt as export
from changenet.export.onnx import export_bundle
from changenet.export.parity import make_pairs
from changenet.export.tensorrt import Source, find_source, generate
from changenet.manifest import EngineEntry, Parity
from changenet.storage import sha256
from changenet.tensorrt import run
from changenet.tensorrt.build import BuildSettings, Built, engine_name
from changenet.tensorrt.package import TensorRt
from changenet.tensorrt.tag import EngineTag, Gpu

TAG = EngineTag("tensorrt", "10.9", "8.9", "NVIDIA L4", "fp32", (2, 2, 3), {})
UNCHECKED = Parity(None)
CPU = "cpu:0"  # `cpu` alone stands for the first GPU


class OnnxPlan(run.Plan):
    """Runs the graph that the bytes of an engine hold here, and notes the batches."""

    def __init__(self, content: bytes, *, where: str, **_: Any) -> None:
        import onnxruntime

        largest = {"encoder": 6, "golden": 3}.get(Path(where).name.split(": ")[-1].removesuffix(".engine"), 3)
        super().__init__(smallest=2, largest=largest)
        self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self.batches: list[int] = []

    @property
    def memory_bytes(self) -> int:
        return 1000

    def execute(self, inputs: Sequence[torch.Tensor]) -> run.Tensors:
        self.batches.append(len(inputs[0]))
        names = [each.name for each in self.session.get_inputs()]
        arrays = [each.numpy() for each in inputs]
        return tuple(map(torch.from_numpy, self.session.run(None, dict(zip(names, arrays, strict=True)))))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT 10.9 and an L4, as far as the engine can tell."""
    module = type("module", (), {"__version__": "10.9"})
    monkeypatch.setattr(engine_module, "import_tensorrt", lambda name: TensorRt(name, module))
    monkeypatch.setattr(run, "local_gpu", lambda _: Gpu("NVIDIA L4", "8.9"))
    monkeypatch.setattr(run, "open_plan", OnnxPlan)


def with_engines(bundle_folder: Path, folder: Path, tag: EngineTag = TAG, parity: Parity = UNCHECKED) -> str:
    """Copy a bundle and add "engines": the graphs themselves, which `OnnxPlan` runs."""
    shutil.copytree(bundle_folder, folder)
    files = {f"{path.stem}.engine": path.read_bytes() for path in folder.glob("*.onnx")}
    digests = {name: sha256(content) for name, content in files.items()}
    entry = EngineEntry("tensorrt", "tensorrt", tag.precision, digests, parity, tag.to_dict())
    add_engine(read_bundle(folder), entry, files)
    return str(folder)


@pytest.fixture
def bundle(bundle_folder: Path, tmp_path: Path) -> str:
    return with_engines(bundle_folder, tmp_path / "bundle")


def test_a_bundle_keeps_its_other_engines_and_tells_where_the_new_one_runs(bundle: str, pairs) -> None:
    manifest = read_bundle(bundle).manifest
    assert [each.name for each in manifest.engines] == ["onnxruntime", "tensorrt"]
    assert EngineTag.from_dict(manifest.engines[1].tag) == TAG
    assert "tag" not in json.loads(Path(bundle, "manifest.json").read_text())["engines"][0]
    assert load_engine(bundle)[0].name == "onnxruntime"  # what every machine can run


VERIFIED, HALF = Parity(1e-6), replace(TAG, precision="fp16")
SLOWER = {"tensorrt": 9.0, "onnxruntime": 10.0}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("tag", "parity", "device", "expected"),
    [
        (TAG, VERIFIED, None, "tensorrt"),
        (replace(TAG, pairs_per_second={"tensorrt": 11.0, "onnxruntime": 10.0}), VERIFIED, "cuda", "tensorrt"),
        (HALF, Parity(0.01, 0.99), None, "tensorrt"),
        (TAG, VERIFIED, "cpu", "onnxruntime"),
        (replace(TAG, pairs_per_second=SLOWER), VERIFIED, None, "onnxruntime"),
        (replace(TAG, capability="9.0"), VERIFIED, None, "onnxruntime"),
        (replace(TAG, version="10.12"), VERIFIED, None, "onnxruntime"),
        (TAG, Parity(None, reason="built elsewhere"), None, "onnxruntime"),
        (HALF, Parity(0.01), None, "onnxruntime"),
        (HALF, Parity(0.01, 0.98), None, "onnxruntime"),
    ],
)
def test_auto_takes_tensorrt_where_it_is_verified_fits_and_was_faster(
    tag: EngineTag, parity: Parity, device: str | None, expected: str, bundle_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(choice, "TensorRtEngine", lambda files, **_: TensorRtEngine(files, device=CPU))
    path = with_engines(bundle_folder, tmp_path / "bundle", tag, parity)
    assert {load_engine(path, device=device)[0].name for _ in range(2)} == {expected}


@pytest.mark.usefixtures("gpu")
def test_auto_takes_no_tensorrt_engine_of_graphs_that_decide_otherwise(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It agrees with the graphs it was built from, and those do not agree with the network."""
    monkeypatch.setattr(choice, "TensorRtEngine", lambda files, **_: TensorRtEngine(files, device=CPU))
    path = with_engines(bundle_folder, tmp_path / "bundle", replace(TAG, precision="int8"), Parity(0.01, 1.0))
    manifest = json.loads(Path(path, "manifest.json").read_text())
    manifest["engines"][0].update(precision="int8", parity={"max_error": 0.3, "agreement": 0.8, "min_agreement": 0.99})
    Path(path, "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineError, match=r"80\.00% of the decisions of onnxruntime \(int8\)"):
        load_engine(path)


@pytest.mark.usefixtures("gpu")
def test_auto_leaves_an_engine_out_that_computes_other_scores_here(
    bundle_folder: Path, tmp_path: Path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(choice, "TensorRtEngine", lambda files, **_: TensorRtEngine(files, device=CPU))
    monkeypatch.setattr(TensorRtEngine, "output", lambda _, test, __: np.zeros((len(test), 2), np.float32))
    path = with_engines(bundle_folder, tmp_path / "bundle", parity=VERIFIED)
    with caplog.at_level("INFO"):
        assert load_engine(path)[0].name == "onnxruntime"
    assert "is left out" in caplog.text
    assert "self-test" in caplog.text


@pytest.mark.usefixtures("gpu")
def test_every_road_gives_the_scores_of_onnxruntime_whatever_the_batch(bundle: str, pairs) -> None:
    reference = load_engine(bundle)[0]
    engine, description, found = load_engine(bundle, "tensorrt", device=CPU)
    assert isinstance(engine, TensorRtEngine)
    assert (engine.name, engine.precision, engine.memory_bytes) == ("tensorrt", "fp32", 3000)
    assert found is not None
    engine.warm_up(description.layout.shape)
    mean, std = (np.array(description.network[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    for count in (1, 2, 5):
        test, golden = (each[:count] for each in pairs)
        wanted = reference.score(test, golden)
        halves = engine.prepare_golden(engine.encode(golden))
        floats = [((each / 255 - mean) / std).astype(np.float32) for each in (test, golden)]
        for output in (engine.output(test, golden), engine.compare(engine.encode(test), halves), engine.pair(*floats)):
            np.testing.assert_allclose(engine.scores(output), wanted, atol=1e-5)
    assert engine.memory_bytes == 4000  # the pair graph was loaded when it was needed


@pytest.mark.usefixtures("gpu")
def test_batches_stay_inside_the_profile(bundle: str, pairs) -> None:
    engine = load_engine(bundle, "tensorrt", device=CPU)[0]
    assert isinstance(engine, TensorRtEngine)
    engine.output(*pairs)
    batches = {name: plan.batches for name, plan in engine._plans.items() if isinstance(plan, OnnxPlan)}
    assert batches == {"encoder": [6, 4], "golden": [3, 2], "comparator": [3, 2]}
    engine.encode(pairs[0][:1])
    assert batches["encoder"][-1] == 2  # filled up


@pytest.mark.usefixtures("gpu")
def test_an_engine_file_scores_alone_and_keeps_no_goldens(bundle: str, tmp_path: Path, pairs) -> None:
    opened = read_bundle(bundle)
    path = str(tmp_path / "pcb.engine")
    write_engine_file(path, opened.read("pair.engine"), TAG, opened.manifest.description)
    assert Path(path).read_bytes() == opened.read("pair.engine")  # other programs read it
    engine, description, found = load_engine(path, device=CPU)
    assert found is None
    assert description == opened.manifest.description
    np.testing.assert_allclose(engine.score(*pairs), load_engine(bundle)[0].score(*pairs), atol=1e-5)
    with pytest.raises(EngineError, match="holds the pair graph only"):
        engine.encode(pairs[0])
    with pytest.raises(EngineError, match="the engine onnxruntime cannot run"):
        load_engine(path, "onnxruntime")


@pytest.mark.slow
@pytest.mark.usefixtures("gpu")
def test_an_engine_file_compares_with_several_goldens(make_checkpoint, tmp_path: Path) -> None:
    checkpoint, path = make_checkpoint(num_golden=2), str(tmp_path / "pcb.engine")
    export_bundle(checkpoint, tmp_path / "exported")
    bundle = with_engines(tmp_path / "exported", tmp_path / "bundle")
    write_engine_file(path, read_bundle(bundle).read("pair.engine"), TAG, checkpoint.description)
    pair = make_pairs(5, checkpoint.description.layout.shape, seed=2, num_golden=2)
    wanted = load_engine(bundle, "onnxruntime")[0].score(*pair)
    assert np.ptp(wanted) > 1e-3
    for engine in (load_engine(path, device=CPU)[0], load_engine(bundle, "tensorrt", device=CPU)[0]):
        np.testing.assert_allclose(engine.score(*pair), wanted, atol=1e-4)


def test_a_file_of_another_kind_with_notes_beside_it_is_no_engine(checkpoint_file: str, tmp_path: Path) -> None:
    path = shutil.copy(checkpoint_file, tmp_path / "m.pth")
    for notes in (b'{"trained": "on Monday"}', b"\xff\xfe"):
        Path(f"{path}.json").write_bytes(notes)
        assert load_engine(str(path))[0].name == "torch"


@pytest.fixture
def source(gpu: None, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A bundle of which "engines" are built: the graphs themselves, which `OnnxPlan` runs."""

    def build(graphs: dict[str, bytes], settings: BuildSettings, **_: Any) -> Built:
        plans = {engine_name(name): graph for name, graph in graphs.items()}
        return Built(plans, replace(TAG, precision=settings.precision))

    monkeypatch.setattr(export, "build_plans", build)
    monkeypatch.setattr(export, "median_seconds", lambda *_: 1.0)
    monkeypatch.setattr(export, "TensorRtEngine", lambda files, **_: TensorRtEngine(files, device=CPU))
    return find_source(str(shutil.copytree(bundle_folder, tmp_path / "bundle")))


def test_a_bundle_that_cannot_be_read_stops_no_file_that_lies_elsewhere(bundle_folder: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(bundle_folder, tmp_path / "export" / "bundle"))
    (damaged / "encoder.onnx").write_bytes(b"damaged")
    alone = shutil.copy(bundle_folder / "pair.onnx", tmp_path / "alone.onnx")
    assert find_source(str(alone), exported=[str(damaged)]).bundle is None
    beside = shutil.copy(bundle_folder / "pair.onnx", tmp_path / "export" / "model.onnx")
    with pytest.raises(CheckpointError, match=r"encoder\.onnx"):
        find_source(str(beside))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_engines_that_run_here_are_held_against_onnxruntime(source: Source, pairs, tmp_path: Path, caplog) -> None:
    path = str(tmp_path / "pcb.engine")
    generated = generate(source, BuildSettings(), path, validation=[pairs])
    assert (generated.parity.agreement, generated.parity.reason) == (1, "")
    assert generated.tag.pairs_per_second == {"tensorrt": 8, "onnxruntime": 8}
    assert read_bundle(source.where).manifest.engines[1].verified
    np.testing.assert_array_equal(load_engine(path, device=CPU)[0].output(*pairs).shape, (5, 2))

    def unreadable() -> Iterator[Any]:
        yield pairs
        raise DataError("no such file", where="val.csv:7")

    generated = generate(source, BuildSettings(), path, validation=unreadable(), overwrite=True)
    assert (generated.parity.agreement, generated.parity.reason) == (None, "val.csv:7: no such file")
    assert "No decisions on real pairs were compared: val.csv:7" in caplog.text


def test_what_would_not_be_loaded_is_not_written(source: Source, tmp_path: Path, monkeypatch) -> None:
    before = everything(tmp_path)
    for method, words in (
        ("output", "self-test"),  # the gate looks at other pairs
        ("pair", r"tensorrt \(fp32\) does not agree with onnxruntime \(fp32\) .*pair\.onnx.*tensorrt\.data_type"),
    ):
        with monkeypatch.context() as patched:
            if method == "output":
                patched.setattr(export, "check_parity", lambda *_, **__: VERIFIED)
            patched.setattr(TensorRtEngine, method, lambda _, test, __: np.zeros((len(test), 2), np.float32))
            with pytest.raises(EngineError, match=words):
                generate(source, BuildSettings(), str(tmp_path / "pcb.engine"))
    assert everything(tmp_path) == before


def test_a_build_that_cannot_be_written_changes_nothing(source: Source, tmp_path: Path, monkeypatch) -> None:
    path, elsewhere = str(tmp_path / "pcb.engine"), BuildSettings(capability="8.9")
    before = everything(tmp_path)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        generate(source, elsewhere, str(tmp_path / "file" / "pcb.engine"))
    (tmp_path / "file").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(export, "add_engine", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            generate(source, elsewhere, path)
        assert everything(tmp_path) == before
        for name in ("pcb.engine", "pcb.engine.json"):
            (tmp_path / name).write_text("mine")
        with pytest.raises(OSError, match="disk full"):
            generate(source, elsewhere, path, overwrite=True)
    assert everything(tmp_path) == {**before, "pcb.engine": b"mine", "pcb.engine.json": b"mine"}


def test_files_go_over_nothing_unasked_and_into_no_bundle(source: Source, tmp_path: Path) -> None:
    path, elsewhere = str(tmp_path / "pcb.engine"), BuildSettings(capability="8.9")
    Path(f"{path}.json").write_text("mine")
    with pytest.raises(CheckpointError, match=r"pcb\.engine\.json: exists\. Add --overwrite"):
        generate(source, elsewhere, path)
    inside = f"{source.where}/x"
    for engine, cache in ((inside, None), (str(tmp_path / "other.engine"), inside)):
        with pytest.raises(CheckpointError, match="x: would lie in a bundle"):
            generate(source, elsewhere, engine, timing_cache=cache, overwrite=True)
    assert read_bundle(source.where)


@pytest.mark.usefixtures("gpu")
def test_an_engine_of_another_version_or_gpu_is_refused(bundle_folder: Path, tmp_path: Path) -> None:
    other = with_engines(bundle_folder, tmp_path / "version", replace(TAG, version="10.12"))
    with pytest.raises(EngineError, match=r"built with tensorrt 10\.12, and 10\.9 is installed.*gen_trt_engine"):
        load_engine(other, "tensorrt", device=CPU)
    other = with_engines(bundle_folder, tmp_path / "gpu", replace(TAG, capability="9.0", gpu="H100"))
    with pytest.raises(EngineError, match=r"compute capability 9\.0 \(H100\), and this GPU \(NVIDIA L4\) has 8\.9"):
        load_engine(other, "tensorrt", device=CPU)


def test_without_tensorrt_or_an_engine_the_message_says_what_to_do(
    bundle: str, bundle_folder: Path, checkpoint_file: str
) -> None:
    with pytest.raises(EngineError, match=r"the package tensorrt is not installed.*changenet-ray\[gpu\]"):
        load_engine(bundle, "tensorrt")
    with pytest.raises(EngineError, match=r"no TensorRT engine in this bundle.*changenet gen_trt_engine"):
        load_engine(str(bundle_folder), "tensorrt")
    with pytest.raises(EngineError, match="runs what changenet gen_trt_engine built"):
        load_engine(checkpoint_file, "tensorrt")
    with pytest.raises(CheckpointError, match=r"/nowhere\.engine: there is no such file"):
        load_engine("/nowhere.engine", "tensorrt")


def test_a_sealed_engine_needs_its_key_and_a_changed_one_is_refused(bundle: str, tmp_path: Path) -> None:
    opened, path = read_bundle(bundle), tmp_path / "pcb.engine"
    write_engine_file(str(path), b"plan" * 50, TAG, opened.manifest.description, encryption_key="secret")
    assert b"plan" not in path.read_bytes()
    files, _ = open_files(str(path), encryption_key="secret")
    assert files.read("pair.engine") == b"plan" * 50
    for key in (None, "wrong"):
        with pytest.raises(CheckpointError, match="encryption_key"):
            open_files(str(path), encryption_key=key)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        open_files(str(path), encryption_key="secret")
    write_engine_file(str(path), b"plan", TAG, None)
    with pytest.raises(EngineError, match="from an ONNX file alone"):
        open_files(str(path))
    with pytest.raises(CheckpointError, match="a signature is demanded"):
        open_files(str(path), trusted_keys=["a"])
    note = Path(f"{path}.json")
    note.write_text(note.read_text().replace('"precision"', '"accuracy"'))
    with pytest.raises(CheckpointError, match=r"does not say where it runs.*accuracy"):
        open_files(str(path))
