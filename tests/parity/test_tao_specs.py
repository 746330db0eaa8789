"""Specs in every dialect of TAO: each loads, with these warnings, and means what TAO makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from changenet import factory
from changenet.spec import load_spec
from changenet.spec.tree import get, parse_path

FOLDER = Path(__file__).with_name("tao_specs")
FOUR = ("LowAngleLight", "SolderLight", "UniformLight", "WhiteLight")
OLD = "is an old spelling; write "
COLOUR = "dataset.classify.augmentation_config.random_color"

# By file: what the experiment says (properties and keys), and its warnings without the file name.
EXPECTED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "documented": (
        {
            "lights": FOUR,
            "grid": (1, 4),
            "picture_size": (512, 128),
            "learnable": True,
            "loss": "ce",
            "head": "flatten",
            "eval_margin": 0.005,
            "threshold_policy": "margin",
            "num_classes": 2,
            "model.backbone.pretrained_backbone_path": None,
            "model.decode_head.decoder_params.embed_dim": 256,
            "model.classify.embed_dec": 30,
            "dataset.classify.augmentation_config.random_color.enable": True,
            "train.classify.cls_weight": [1.0, 10.0],
            "train.optim.lr": 0.0001,
            "train.results_dir": "/results/train",
            "export.input_height": 512,
        },
        [
            f"model.decode_head.align_corner: {OLD}model.decode_head.align_corners",
            f"model.decode_head.decoder_params.embed_dims: {OLD}model.decode_head.decoder_params.embed_dim",
            f"dataset.classify.input_width: {OLD}dataset.classify.image_width",
            f"dataset.classify.input_height: {OLD}dataset.classify.image_height",
            f"{COLOUR}.enabled: {OLD}{COLOUR}.enable",
            f"train.classify.cls_weights: {OLD}train.classify.cls_weight",
        ],
    ),
    "old_documentation": (
        {
            "lights": ("SolderLight",),
            "picture_size": (128, 128),
            "learnable": False,
            "loss": "contrastive",
            "eval_margin": 0.3,
            "threshold_policy": "margin",
            "train.validation_interval": 5,
            "train.optim.lr": 0.0005,
            "model.classify.embedding_vectors": 5,
        },
        [f"train.val_interval: {OLD}train.validation_interval"],
    ),
    "defaults_6_25": (
        {
            "lights": ("",),
            "picture_size": (224, 224),
            "learnable": False,
            "loss": "contrastive",
            "eval_margin": 2.0,
            "results_dir": "./results",
            "train.sync_batchnorm": True,
            "train.use_distributed_sampler": True,
            "train.optim.weight_decay": 0.01,
            "dataset.classify.batch_size": 8,
            "dataset.classify.concat_type": "linear",
            "evaluate.checkpoint": None,
        },
        [],
    ),
    "defaults_7_3": (
        {
            "lights": ("",),
            "picture_size": (224, 224),
            "learnable": False,
            "loss": "contrastive",
            "eval_margin": 2.0,
            "threshold_policy": "margin",
            "monitor": ("val_loss", "min"),
            "quantize_mode": "weight_only_ptq",
            "train.sync_batchnorm": False,
            "train.tensorboard.enabled": False,
            "model.classify.embed_dec": 5,
            "export.onnx_file": None,
            "gen_trt_engine.tensorrt.max_batch_size": 8,
        },
        [],
    ),
    "vit": (
        {
            "lights": FOUR,
            "grid": (2, 2),
            "picture_size": (224, 224),
            "learnable": True,
            "eval_margin": 0.5,
            "statistics": (None, None),  # C-RADIO's own, because ImageNet's are written (std in the old form)
            "model.backbone.freeze_backbone": True,
            "train.precision": "bf16-mixed",
            "train.optim.lr": 1e-5,
        },
        ["train.precision: 'bf16' is read as 'bf16-mixed'; write 'bf16-mixed'"],
    ),
    "multi_golden": (
        {
            "lights": ("",),
            "picture_size": (224, 224),
            "dataset.classify.num_golden": 4,
            "model.backbone.type": "c_radio_p3_vit_huge_patch16_224_mlpnorm",
            "evaluate.checkpoint": "/results/train/changenet_model_classify_latest.pth",
            "evaluate.batch_size": 4,
            "train.classify.cls_weight": [1.0, 5.0],
        },
        [],
    ),
    "deploy": (
        {
            "lights": FOUR,
            "picture_size": (512, 128),
            "learnable": True,
            "model.classify.difference_module": "learnable",
            "eval_margin": 0.3,
            "evaluate.trt_engine": "/results/changenet.engine",
            "inference.trt_engine": "/results/changenet.engine",
            "inference.batch_size": 8,
            "gen_trt_engine.input_height": 512,
        },
        [
            f"model.classify.diff_module: {OLD}model.classify.difference_module",
            "gen_trt_engine.input_width: 128 has no effect: the ONNX file's is used",
            "gen_trt_engine.input_height: 512 has no effect: the ONNX file's is used",
            "gen_trt_engine.tensorrt.workspace_size: 20 is MB; TAO's own programs read GiB",
        ],
    ),
    "template_2026": (
        {
            "lights": ("SolderLight",),
            "picture_size": (224, 224),
            "eval_margin": 0.3,
            "monitor": ("val_far", "min"),
            "statistics": (None, None),
            "dataset.classify.fpratio_sampling": 0.25,
            "dataset.classify.augmentation_config.augment": True,
            "train.num_epochs": 100,
            "train.optim.lr": 1e-5,
            "quantize.backend": "modelopt.pytorch",
            "quantize.layers[0].weights.dtype": "fp8_e4m3fn",
        },
        [
            "quantize.backend: 'modelopt' is read as 'modelopt.pytorch'; write 'modelopt.pytorch'",
            "quantize.layers[0].weights.dtype: 'float8_e4m3fn' is read as 'fp8_e4m3fn'; write 'fp8_e4m3fn'",
        ],
    ),
}


def test_every_dialect_is_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_dialect_loads_and_means_what_tao_makes_of_it(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    expected, warnings = EXPECTED[name]
    loaded = load_spec(path)
    told = [line.removeprefix(f"{path}: ") for line in loaded.warnings]
    assert told == warnings
    values = loaded.experiment.model_dump(mode="json")
    for key, value in expected.items():
        attribute = getattr(loaded.experiment, key, None)
        found = get(values, parse_path(key)) if "." in key or attribute is None else attribute
        assert found == value, key


@pytest.mark.parametrize("name", EXPECTED)
def test_the_layout_of_a_dialect_is_its_picture(name: str) -> None:
    experiment = load_spec(FOLDER / f"{name}.yaml").experiment
    assert factory.picture_layout(experiment).shape == (3, *experiment.picture_size)
