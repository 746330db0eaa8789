"""`changenet quantize` on the encoders that TAO users have: FAN, and C-RADIO (a tiny one) behind its adapter."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import changenet
from changenet.bundle import read_bundle
from changenet.evaluation.cost import Cost
from changenet.model.backbones import Backbone, Request
from changenet.model.backbones.adapter import vit_encoder
from changenet.model.backbones.radio import RadioSettings, RadioVit
from changenet.model.backbones.registry import register
from changenet.model.catalogue import CATALOGUE, BackboneFacts
from changenet.training.checkpoint import save_checkpoint
from ray_jobs import export, gen_trt_engine, quantize, quantize_comparison

RADIO = "tiny_c_radio"
EVERYTHING = "quantize.layers=[{module_name: '*', weights: {dtype: int8}, activations: {dtype: int8}}]"


@register(RADIO)
def build_radio(name: str, request: Request) -> Backbone:
    settings = RadioSettings(width=32, depth=4, heads=2, class_tokens=3, token_multiple=4, mlp_norm=True)
    return vit_encoder(RadioVit(settings), request)


@pytest.fixture(scope="module", params=["fan_tiny_8_p4_hybrid", RADIO])
def checkpoint_of_family(request: pytest.FixtureRequest, make_checkpoint: Any, tmp_path_factory: Any) -> str:
    width = (32,) * 4
    facts = BackboneFacts(RADIO, "vit", "radio", 32, 16, (4, 8, 16, 32), width, mean=(0.5,) * 3, std=(0.5,) * 3)
    CATALOGUE.setdefault(RADIO, facts)
    path = str(tmp_path_factory.mktemp("family") / "model_best.pth")
    save_checkpoint(path, make_checkpoint(backbone=request.param, learnable_difference_modules=2))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torchao", "onnxruntime", "modelopt"])
def test_a_family_is_quantized_bundled_and_scored(
    backend: str, checkpoint_of_family: str, pair_folder: Path, pairs: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(quantize, "computes_in", lambda *_: True)
    monkeypatch.setattr(quantize_comparison, "measure", lambda _: Cost({"1": 2.0, "8": 10.0}, 800.0, 500.0))
    files = {"csv_path": str(pair_folder / "train.csv"), "images_dir": str(pair_folder / "images")}
    values = {
        "results_dir": str(tmp_path / "results"),
        "quantize": {"model_path": checkpoint_of_family, "backend": backend, "min_agreement": 0.9},
        "dataset": {"classify": {"train_dataset": files}},
    }
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(values))
    rules = EVERYTHING if backend != "torchao" else "quantize.layers=[{module_name: Linear, weights: {dtype: int8}}]"
    assert quantize.run(str(spec), [rules]) == 0
    folder = tmp_path / "results" / "quantize"
    figures = json.loads((folder / "comparison.json").read_text())
    assert figures["agrees"] is True
    assert figures["engines"][1]["precision"] == "bf16"
    assert 0 < figures["engines"][1]["max_score_difference"] < 0.2
    assert any(name.startswith("backbone.") for name in figures["layers"])
    path = str(folder / f"quantized_model_{backend}.pth")
    floats, integers = changenet.load(checkpoint_of_family), changenet.load(path)
    wanted, found = floats.score_arrays(*pairs), integers.score_arrays(*pairs)
    assert 0 < np.abs(found - wanted).max() < 0.3
    assert export.run(str(spec), [f"export.checkpoint={path}"]) == 0
    served = changenet.load(tmp_path / "results" / "export" / "bundle")
    assert served.engine.precision == "int8"
    assert served.engine_name == ("torch" if backend == "torchao" else "onnxruntime")
    served.self_test()
    np.testing.assert_allclose(served.score_arrays(*pairs), found, atol=0.1)
    if backend == "modelopt":  # TensorRT's parser takes attention, the adapter's sampling and the rounding between them
        pytest.importorskip("tensorrt_rtx")
        elsewhere = ["gen_trt_engine.tensorrt.compute_capability=8.9", "gen_trt_engine.tensorrt.data_type=int8"]
        assert gen_trt_engine.run(str(spec), elsewhere) == 0
        _, entry = read_bundle(tmp_path / "results" / "export" / "bundle").manifest.engines
        assert (entry.runtime, entry.precision) == ("tensorrt", "int8")
