"""Export to ONNX: the files, the gate, and what is refused."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest

from changenet.bundle import read_bundle
from changenet.engines import load_engine
from changenet.engines.onnxruntime import OnnxRuntimeEngine
from changenet.engines.torch import TorchEngine
from changenet.errors import CheckpointError, DataError, EngineError
from changenet.export import onnx as onnx_export
from changenet.export import trace
from changenet.export.onnx import export_bundle, weights_digest
from changenet.export.parity import check_parity, make_pairs
from changenet.inspection import Inspector
from changenet.sealing import seal
from changenet.training.checkpoint import build_network


def shapes(values) -> dict[str, list]:
    return {value.name: value.shape for value in values}


def test_graphs_have_taos_names_and_a_free_batch(bundle_folder: Path) -> None:
    session = onnxruntime.InferenceSession(bundle_folder / "pair.onnx", providers=["CPUExecutionProvider"])
    assert shapes(session.get_inputs()) == {name: ["batch", 3, 32, 32] for name in ("input_1", "input_2")}
    assert shapes(session.get_outputs()) == {"output": ["batch", 2]}
    encoder = onnx.load(bundle_folder / "encoder.onnx")
    assert [value.name for value in encoder.graph.input] == ["picture"]
    assert encoder.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert encoder.opset_import[0].version == 18


def test_model_onnx_is_the_pair_graph(bundle_folder: Path) -> None:
    assert bundle_folder.with_name("model.onnx").read_bytes() == (bundle_folder / "pair.onnx").read_bytes()


def test_test_and_golden_are_not_interchangeable_in_the_graphs(bundle_folder: Path, pairs) -> None:
    engine, _, _ = load_engine(str(bundle_folder))
    test, golden = (picture.astype(np.float32) / 128 - 1 for picture in pairs)
    assert np.abs(engine.pair(test, golden) - engine.pair(golden, test)).max() > 1e-3


def test_graphs_do_not_hold_paths_of_this_machine(bundle_folder: Path) -> None:
    here = str(Path(onnx_export.__file__).parents[2]).encode()
    for file in bundle_folder.iterdir():
        assert here not in file.read_bytes(), file.name


def test_manifest_says_how_well_the_graphs_agree(bundle_folder: Path, checkpoint) -> None:
    manifest = read_bundle(bundle_folder).manifest
    assert 0 <= manifest.engines[0].parity.max_error <= 1e-4
    assert manifest.engines[0].precision == "fp32"
    assert manifest.exported_with["opset"] == "18"
    assert manifest.weights_sha256 == weights_digest(checkpoint.state)


def test_existing_files_are_replaced_only_on_request(bundle_folder: Path, checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="--overwrite"):
        export_bundle(checkpoint, bundle_folder)
    file = tmp_path / "model.onnx"
    file.write_text("mine")
    with pytest.raises(CheckpointError, match="--overwrite"):
        export_bundle(checkpoint, tmp_path / "bundle", onnx_file=file)
    assert file.read_text() == "mine"
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("inside", ["bundle", "bundle/x.onnx", "bundle/deeper/x.onnx", "link/x.onnx"])
def test_a_copy_inside_the_bundle_is_refused_before_anything_is_traced(
    inside: str, checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever loads a bundle refuses one with files that its manifest does not list."""
    monkeypatch.setattr(onnx_export, "export_graphs", pytest.fail)
    (tmp_path / "link").symlink_to("bundle")
    with pytest.raises(CheckpointError, match=r"would lie in a bundle.*Choose another folder"):
        export_bundle(checkpoint, tmp_path / "bundle", onnx_file=tmp_path / inside, overwrite=True)
    assert not (tmp_path / "bundle").exists()


def test_a_copy_in_another_bundle_is_refused(checkpoint, bundle_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="would lie in a bundle"):
        export_bundle(checkpoint, tmp_path / "bundle", onnx_file=bundle_folder / "x.onnx", overwrite=True)
    with pytest.raises(CheckpointError, match="would lie in a bundle"):
        export_bundle(checkpoint, "memory://inside/bundle", onnx_file="memory://inside/bundle/x.onnx")


def test_without_onnxruntime_nothing_is_traced(checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(onnx_export, "export_graphs", pytest.fail)
    with pytest.raises(EngineError, match=r"changenet-ray\[cpu\]"):
        export_bundle(checkpoint, tmp_path / "bundle")


def test_euclidean_bundle_with_a_fixed_pair_batch_and_a_small_opset(make_checkpoint, tmp_path, caplog) -> None:
    checkpoint = make_checkpoint(difference_module="euclidean")
    exported = export_bundle(checkpoint, tmp_path / "bundle", opset=12, batch_size=4)
    assert exported.opset == 18
    assert "12 is raised to 18" in caplog.text
    names = {path.name for path in (tmp_path / "bundle").iterdir()}
    assert names == {"manifest.json", "selftest.npz", "pair.onnx", "encoder.onnx", "comparator.onnx"}
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / "pair.onnx", providers=["CPUExecutionProvider"])
    assert shapes(session.get_inputs())["input_1"] == [4, 3, 32, 32]
    assert shapes(session.get_outputs()) == {"output": [4]}
    engine, _, bundle = load_engine(str(tmp_path / "bundle"))
    assert bundle is not None
    assert bundle.manifest.batch_size == 4
    test, golden = make_pairs(3, (3, 32, 32), seed=1)
    wanted = TorchEngine(build_network(checkpoint)).score(test, golden)
    np.testing.assert_allclose(engine.score(test, golden), wanted, rtol=1e-4, atol=1e-4)


def test_weights_too_large_for_one_file_lie_beside_the_graphs(
    checkpoint, pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "ONNX_LIMIT", 10_000)
    folder, file = tmp_path / "bundle", tmp_path / "model.onnx"
    export_bundle(checkpoint, folder, onnx_file=file, batch_size=5)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sizes["weights.data"] > 10_000
    manifest = read_bundle(folder).manifest
    assert "weights.data" in manifest.engines[0].sha256
    wanted = TorchEngine(build_network(checkpoint)).score(*pairs)
    engine, _, _ = load_engine(str(folder))
    np.testing.assert_allclose(engine.score(*pairs), wanted, atol=1e-4)
    assert engine.memory_bytes > sizes["weights.data"]
    read: list[str] = []
    bundle = read_bundle(folder)
    kept = OnnxRuntimeEngine(lambda name: read.append(name) or bundle.read(name), description=manifest.description)
    assert sorted(read) == ["comparator.onnx", "encoder.onnx", "golden.onnx", "weights.data"]  # each once
    assert kept.memory_bytes == engine.memory_bytes
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/weights\.data: exists"):
        export_bundle(checkpoint, tmp_path / "other", onnx_file=tmp_path / "other.onnx")
    assert not (tmp_path / "other").exists()
    # Others open the copy by its path, and find the weights beside it.
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    inputs = {
        name: picture.astype(np.float32) / 64 - 2 for name, picture in zip(("input_1", "input_2"), pairs, strict=True)
    }
    np.testing.assert_allclose(session.run(None, inputs)[0], engine.pair(*inputs.values()), atol=1e-5)
    sealed = tmp_path / "sealed"
    seal(str(folder), "horse staple", target=str(sealed))
    assert (sealed / "weights.data").read_bytes().startswith(b"\x89CHGNET")
    locked, _, _ = load_engine(str(sealed), encryption_key="horse staple")
    np.testing.assert_array_equal(locked.score(*pairs), engine.score(*pairs))
    whole = (folder / "weights.data").read_bytes()
    (folder / "weights.data").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"weights\.data: changed since it was written"):
        load_engine(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["timm/tf_efficientnet_lite0", "timm/test_vit", "fan_tiny_8_p4_hybrid"])
def test_every_kind_of_encoder_exports(backbone: str, make_checkpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(backbone=backbone, learnable_difference_modules=2, classes=("PASS", "open", "short"))
    exported = export_bundle(checkpoint, tmp_path / "bundle", opset=20)
    assert exported.parity.max_error <= 1e-4
    engine, _, _ = load_engine(str(tmp_path / "bundle"))
    assert engine.output(*make_pairs(3, (3, 32, 32), seed=1)).shape == (3, 3)


@pytest.mark.slow
def test_several_goldens_and_real_classes_export(make_checkpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(num_golden=2, learnable_difference_modules=3, classes=("PASS", "open", "short"))
    exported = export_bundle(checkpoint, tmp_path / "bundle", onnx_file=tmp_path / "model.onnx")
    assert exported.parity.max_error <= 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert shapes(session.get_inputs()) == {"input_1": ["batch", 3, 224, 224], "input_2": ["batch", 2, 3, 224, 224]}
    assert shapes(session.get_outputs()) == {"output": ["batch", 3]}

    engine, description, bundle = load_engine(str(tmp_path / "bundle"))
    assert bundle is not None
    assert description.num_golden == 2
    assert bundle.selftest().golden.shape == (2, 2, 3, 224, 224)
    inspector = Inspector(engine, description, bundle=bundle)
    assert inspector.self_test() <= 1e-4
    # The serving road: each golden once, kept, and put together for a test.
    test, golden = make_pairs(3, (3, 224, 224), seed=1, num_golden=2)
    kept = [engine.prepare_golden(engine.encode(golden[:, number])) for number in range(2)]
    halves = [np.stack(level, axis=1) for level in zip(*kept, strict=True)]
    scores = engine.scores(engine.compare(engine.encode(test), halves))
    wanted = TorchEngine(build_network(checkpoint)).score(test, golden)
    assert np.ptp(wanted) > 1e-3
    np.testing.assert_allclose(scores, wanted, atol=1e-4)
    np.testing.assert_allclose(engine.score(test, golden), wanted, atol=1e-4)
    # One golden stands for both, and the verdict is a class.
    one, two = (np.moveaxis(golden[0, number], 0, -1) for number in range(2))
    part = np.moveaxis(test[0], 0, -1)
    assert inspector.inspect(part, one) == inspector.inspect(part, [one, one])
    assert inspector.inspect(part, [one, two]).score == pytest.approx(float(wanted[0]), abs=1e-4)
    verdict = inspector.with_threshold(-1.0).inspect(part, [one, two])
    assert verdict.prediction in ("open", "short")
    with pytest.raises(DataError, match="3 goldens for a network that compares with 2"):
        inspector.inspect(part, [one, two, one])


def test_pairs_with_several_goldens_are_distinct_and_one_golden_is_as_before() -> None:
    test, golden = make_pairs(4, (3, 24, 16), seed=1, num_golden=3)
    assert golden.shape == (4, 3, 3, 24, 16)
    everything = np.concatenate([test[:, None], golden], axis=1).reshape(16, -1)
    assert len(np.unique(everything, axis=0)) == 16
    assert make_pairs(4, (3, 24, 16), seed=1)[1].shape == (4, 3, 24, 16)


def test_a_graph_that_disagrees_is_not_written_and_the_first_tensor_is_named(
    bundle_folder: Path, checkpoint, tmp_path: Path, monkeypatch
) -> None:
    loaded = {path.name: onnx.load(path) for path in bundle_folder.glob("*.onnx")}
    weight = next(each for each in loaded["golden.onnx"].graph.initializer if "difference.1" in each.name)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + 5, weight.name))
    files = {name: graph.SerializeToString() for name, graph in loaded.items()}
    monkeypatch.setattr(onnx_export, "export_graphs", lambda *_, **__: files)
    with pytest.raises(EngineError, match=r"golden\.onnx golden_1 drifts first"):
        export_bundle(checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_score_that_is_no_number_does_not_pass_the_gate(checkpoint) -> None:
    reference, broken = TorchEngine(build_network(checkpoint)), TorchEngine(build_network(checkpoint))
    known = {"description": checkpoint.description, "fix": "Wait."}
    broken.compare = lambda test, _: np.full((len(test[0]), 2), np.nan, np.float32)  # type: ignore[method-assign]
    said = r"torch \(fp32\) does not agree with torch \(fp32\) .* comparator\.onnx output drifts first.*written. Wait\."
    with pytest.raises(EngineError, match=said):
        check_parity(broken, reference, **known)
    exact = check_parity(reference, reference, **known)
    assert exact.max_error < 1e-6
    other = TorchEngine(build_network(checkpoint))
    other.network.head.layers[-1].bias.data[1] += 1
    with pytest.raises(EngineError, match="batch 1: the score drifts first"):
        check_parity(reference, reference, truth=other, **known)


def test_pairs_of_the_gate_are_distinct_and_repeatable() -> None:
    test, golden = make_pairs(7, (3, 24, 16), seed=1)
    everything = np.concatenate([test, golden]).reshape(14, -1)
    assert len(np.unique(everything, axis=0)) == 14
    again = make_pairs(7, (3, 24, 16), seed=1)
    assert np.array_equal(test, again[0])
    assert np.array_equal(golden, again[1])
