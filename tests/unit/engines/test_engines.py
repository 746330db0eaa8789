"""Engines: the same scores whatever runs the network, and clear errors where it cannot run."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changenet.bundle import read_bundle
from changenet.engines import load_engine
from changenet.engines.interface import probabilities, scores
from changenet.errors import CheckpointError, EngineError


@pytest.fixture(scope="module")
def engines(checkpoint_file: str, bundle_folder: Path):
    return [load_engine(path)[0] for path in (checkpoint_file, str(bundle_folder))]


def test_bf16_is_near_and_takes_less_memory(checkpoint_file: str, engines, pairs) -> None:
    half, _, _ = load_engine(checkpoint_file, precision="bf16")
    assert half.precision == "bf16"
    assert 0 < half.memory_bytes < engines[0].memory_bytes
    difference = np.abs(half.score(*pairs) - engines[0].score(*pairs)).max()
    assert 0 < difference < 0.05
    features = half.encode(pairs[0])
    kept = half.scores(half.compare(features, half.prepare_golden(half.encode(pairs[1]))))
    np.testing.assert_allclose(kept, half.score(*pairs), atol=0.02)


def test_a_warmed_up_engine_scores_as_before(engines, pairs) -> None:
    for engine in engines:
        before = engine.score(*pairs)
        engine.warm_up((3, 32, 32), batch=2)
        assert engine.memory_bytes > 10_000
        np.testing.assert_allclose(engine.score(*pairs), before, atol=1e-6)


def test_engines_at_work_at_once_in_the_memory_they_share_give_each_its_scores(bundle_folder: Path, pairs) -> None:
    both = [load_engine(str(bundle_folder), threads=1)[0] for _ in range(2)]
    for session in (both[0]._encoder, both[1]._comparator):
        assert session.get_session_options().get_session_config_entry("session.use_env_allocators") == "1"
    samples = [(pairs[0][:size], pairs[1][:size]) for size in (5, 2)]
    wanted = [both[0].score(*sample) for sample in samples]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(20):
            found = threads.map(lambda engine, sample: engine.score(*sample), both, samples)
            for score, expected in zip(found, wanted, strict=True):
                np.testing.assert_allclose(score, expected, atol=1e-6)


def test_compiled_code_is_asked_of_pytorch(checkpoint_file: str, pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    engine, _, _ = load_engine(checkpoint_file, compiled=True)
    assert len(compiled) == 4
    assert engine.score(*pairs).shape == (5,)


def test_outputs_that_stay_on_the_device_are_the_same(bundle_folder: Path, engines, pairs) -> None:
    from changenet.engines.onnxruntime import OnnxRuntimeEngine

    engine = OnnxRuntimeEngine.from_bundle(read_bundle(bundle_folder))
    engine._gpu = ("cpu", 0)  # the road of a GPU, as far as a CPU can go it
    np.testing.assert_allclose(engine.output(*pairs), engines[1].output(*pairs), atol=1e-5)


def test_gpus_compute_floats_with_all_their_bits() -> None:
    """Other engines' scores are met to 1e-4, which 19 bits do not reach."""
    import torch

    from changenet.engines.onnxruntime import _providers
    from changenet.engines.torch import full_floats

    for device in ("cuda:1", "tensorrt:1"):
        options = dict(each for each in _providers(device)[0] if not isinstance(each, str))
        assert options["CUDAExecutionProvider"] == {"device_id": 1, "use_tf32": "0"}
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [each.allow_tf32 for each in backends]
    with pytest.raises(ZeroDivisionError), full_floats:
        assert not any(each.allow_tf32 for each in backends)
        raise ZeroDivisionError
    assert [each.allow_tf32 for each in backends] == before
    with full_floats, ThreadPoolExecutor(1) as threads:
        threads.submit(lambda: full_floats.__enter__() or full_floats.__exit__()).result()
        assert not any(each.allow_tf32 for each in backends), "another thread's end is not the end"
    assert [each.allow_tf32 for each in backends] == before


def test_a_batch_that_the_runtime_refuses_is_one_line(engines) -> None:
    with pytest.raises(EngineError, match="cannot run this batch"):
        engines[1].encode(np.zeros((1, 3, 8, 8), np.uint8))


def test_warming_up_touches_the_pair_and_the_steps(engines, monkeypatch) -> None:
    called = []
    for name in ("output", "encode", "prepare_golden", "compare"):
        wrapped = getattr(engines[0], name)
        monkeypatch.setattr(
            engines[0], name, lambda *given, name=name, wrapped=wrapped: called.append(name) or wrapped(*given)
        )
    engines[0].warm_up((3, 32, 32), batch=2)
    assert called == ["output", "encode", "prepare_golden", "compare"]


def test_auto_takes_torch_for_a_checkpoint_and_onnxruntime_for_a_bundle(engines) -> None:
    assert [engine.name for engine in engines] == ["torch", "onnxruntime"]
    assert [engine.device for engine in engines] == ["cpu", "CPUExecutionProvider"]
    assert {engine.precision for engine in engines} == {"fp32"}


def test_engines_agree_on_every_road(engines, pairs) -> None:
    test, golden = pairs
    mean, std = (np.array(values).reshape(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    floats = [((picture / 255 - mean) / std).astype(np.float32) for picture in pairs]
    wanted = engines[0].score(test, golden)
    assert wanted.dtype == np.float32
    assert np.ptp(wanted) > 0.01  # otherwise agreeing is no feat
    for engine in engines:
        halves = engine.prepare_golden(engine.encode(golden))
        kept = engine.scores(engine.compare(engine.encode(test), halves))
        for found in (engine.score(test, golden), kept, engine.scores(engine.pair(*floats))):
            np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_score_hardly_depends_on_the_batch_it_is_in(engines, pairs) -> None:
    test, golden = pairs
    for engine in engines:
        alone = [engine.score(test[row : row + 1], golden[row : row + 1])[0] for row in range(len(test))]
        np.testing.assert_allclose(alone, engine.score(test, golden), atol=1e-5)


def test_network_scores_are_the_engines_scores(checkpoint, pairs) -> None:
    import torch

    from changenet.training.checkpoint import build_network

    network = build_network(checkpoint)
    output = network(*(network.normalise(torch.from_numpy(picture)) for picture in pairs)).detach()
    found = scores(output.numpy(), multiclass=False)
    np.testing.assert_allclose(found, network.score(output).numpy(), atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-200, 200, width=32), min_size=3, max_size=3), min_size=1, max_size=5))
def test_probabilities_add_up_however_large_the_logits(logits: list[list[float]]) -> None:
    output = np.array(logits, np.float32)
    chances = probabilities(output)
    assert (chances >= 0).all()
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(scores(output, multiclass=True), 1 - chances[:, 0], atol=1e-6)
    np.testing.assert_array_equal(scores(output, multiclass=False), chances[:, 1])


def test_a_distance_is_its_own_score() -> None:
    np.testing.assert_array_equal(scores(np.array([0.5, 3], np.float32), multiclass=False), np.float32([0.5, 3]))


def test_what_an_engine_cannot_run_is_said_with_a_way_out(checkpoint_file: str, bundle_folder: Path) -> None:
    with pytest.raises(EngineError, match=r"onnxruntime needs a bundle\. Run changenet export"):
        load_engine(checkpoint_file, "onnxruntime")
    with pytest.raises(EngineError, match="Give the checkpoint"):
        load_engine(str(bundle_folder), "torch")
    with pytest.raises(EngineError, match="auto, onnxruntime, tensorrt, torch"):
        load_engine(checkpoint_file, "openvino")
    with pytest.raises(CheckpointError, match="bundle folder"):
        load_engine(str(bundle_folder.with_name("model.onnx")))
    with pytest.raises(EngineError, match="cuda:77"):
        load_engine(checkpoint_file, device="cuda:77")
    for device, words in (
        ("cuda", "Install onnxruntime-gpu"),
        ("tensorrt:1", "onnxruntime-gpu"),
        ("tpu", "Choose one"),
    ):
        with pytest.raises(EngineError, match=words):
            load_engine(str(bundle_folder), device=device)
    with pytest.raises(EngineError, match="Choose one of fp32, bf16"):
        load_engine(checkpoint_file, precision="fp8")
    with pytest.raises(EngineError, match="bf16 is asked for"):
        load_engine(str(bundle_folder), precision="bf16")
    with pytest.raises(EngineError, match=r"torch\.compile"):
        load_engine(str(bundle_folder), compiled=True)


@pytest.mark.parametrize("engine", ["auto", "onnxruntime"])
def test_a_runtime_that_this_version_does_not_know_is_not_run_by_another(
    engine: str, bundle_folder: Path, tmp_path: Path
) -> None:
    folder = changed_manifest(bundle_folder, tmp_path, runtime="openvino")
    with pytest.raises(
        EngineError, match=r"bundle: holds no graphs for onnxruntime, but openvino\. .*upgrade changenet"
    ):
        load_engine(folder, engine)


def test_an_engine_without_its_graphs_is_a_checkpoint_error(bundle_folder: Path, tmp_path: Path) -> None:
    folder = changed_manifest(bundle_folder, tmp_path, files=["pair.onnx"])
    for graph in ("encoder", "golden", "comparator"):
        Path(folder, f"{graph}.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"there is no encoder\.onnx among the files.*Export the bundle again"):
        load_engine(folder)


def test_auto_never_takes_integers_that_decide_otherwise(bundle_folder: Path, tmp_path: Path) -> None:
    parity = {"max_error": 0.1, "agreement": 0.8, "min_agreement": 0.99, "reason": ""}
    folder = changed_manifest(bundle_folder, tmp_path, precision="int8", parity=parity)
    with pytest.raises(
        EngineError, match=r"80\.00% of the decisions .* 99\.00% were asked for.*name the engine onnxruntime"
    ):
        load_engine(folder)
    assert load_engine(folder, "onnxruntime")[0].precision == "int8"


def changed_manifest(bundle_folder: Path, tmp_path: Path, **changes: Any) -> str:
    """Copy a bundle and change what its manifest says about the engine."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundle_folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["engines"][0].update(changes)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return str(folder)


def test_a_missing_runtime_names_the_extra(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=r"changenet-ray\[cpu\]"):
        load_engine(str(bundle_folder))


def test_a_graph_that_is_none_is_a_checkpoint_error(checkpoint) -> None:
    from changenet.engines.onnxruntime import OnnxRuntimeEngine

    with pytest.raises(CheckpointError, match=r"cannot load encoder\.onnx"):
        OnnxRuntimeEngine(lambda _: b"not a graph", description=checkpoint.description)


def test_a_bundle_is_scored_without_torch(bundle_folder: Path) -> None:
    program = (
        "import sys, numpy, changenet\n"
        f"inspector = changenet.load({str(bundle_folder)!r})\n"
        "picture = numpy.zeros((32, 32, 3), 'uint8')\n"
        "inspector.inspect(picture, picture)\n"
        "print(sorted(name for name in ('torch', 'ray', 'timm') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
