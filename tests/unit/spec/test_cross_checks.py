from __future__ import annotations

import pytest

LIGHTS = "dataset.classify.input_map={a: 0, b: 1, c: 2, d: 3}"
EUCLIDEAN = "model.classify.difference_module=euclidean"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["train.classify.loss=contrastive"], "train.classify.loss"),
        ([EUCLIDEAN, "train.classify.loss=ce"], "train.classify.loss"),
        (["dataset.classify.num_input=4"], "dataset.classify.num_input"),
        ([LIGHTS, "dataset.classify.num_input=3"], "dataset.classify.num_input"),
        (
            [LIGHTS, "dataset.classify.concat_type=grid", "dataset.classify.grid_map={x: 3, y: 2}"],
            "dataset.classify.grid_map",
        ),
        (
            [
                "dataset.classify.input_map={a: 0, b: 1, c: 2}",
                "dataset.classify.concat_type=grid",
                "dataset.classify.grid_map={x: 3, y: 1}",
            ],
            "dataset.classify.concat_type",
        ),
        (["train.classify.cls_weight=[1, 2, 3]"], "train.classify.cls_weight"),
        (["train.classify.cls_weight=[0, 0]"], "train.classify.cls_weight"),
        (["dataset.classify.classes=[PASS, a, b]", "train.classify.cls_weight=[1, 2]"], "train.classify.cls_weight"),
        (["dataset.classify.classes=[PASS, a, b]", "dataset.classify.num_classes=2"], "dataset.classify.num_classes"),
        (["dataset.classify.classes=[a, PASS]"], "dataset.classify.classes"),
        (["dataset.classify.classes=[PASS, a, a]"], "dataset.classify.classes"),
        (["dataset.classify.classes=[PASS, FAIL, ERROR]"], "dataset.classify.classes"),
        (["dataset.classify.classes=[PASS, a]", EUCLIDEAN], "dataset.classify.classes"),
        (["dataset.classify.classes=[PASS, defect]"], "dataset.classify.classes"),
        ([EUCLIDEAN, "dataset.classify.num_golden=2"], "dataset.classify.num_golden"),
        (
            ["dataset.classify.num_golden=2", "dataset.classify.image_width=112", "dataset.classify.image_height=96"],
            "dataset.classify.image_height",
        ),
        (["dataset.classify.image_width=100"], "dataset.classify.image_width"),
        (["model.backbone.feat_downsample=true", "dataset.classify.image_height=48"], "dataset.classify.image_height"),
        (["model.decode_head.feature_strides=[4,8,16,32]"], "model.decode_head.feature_strides"),
        (
            ["model.backbone.feat_downsample=true", "model.decode_head.feature_strides=[4,8,16,16]"],
            "model.decode_head.feature_strides",
        ),
        (["train.validation_interval=11"], "train.validation_interval"),
        (["train.checkpoint_interval=11"], "train.checkpoint_interval"),
        (["train.tensorboard.infrequent_logging_frequency=11"], "train.tensorboard.infrequent_logging_frequency"),
        (["model.backbone.type=fan_tiny"], "model.backbone.type"),
        (["model.backbone.type=timm/"], "model.backbone.type"),
        (["model.backbone.freeze_backbone=true"], "model.backbone.freeze_backbone"),
        (
            ["model.backbone.freeze_backbone=true", "model.backbone.type=vit_small_dinov3"],
            "model.backbone.freeze_backbone",
        ),
        (["model.backbone.pretrained_backbone_path=bundled"], "model.backbone.pretrained_backbone_path"),
        (["model.backbone.type=timm/x", "model.backbone.feat_downsample=true"], "model.backbone.feat_downsample"),
        (["dataset.classify.image_ext=png"], "dataset.classify.image_ext"),
        (["evaluate={trt_engine: a.engine, engine: torch}"], "evaluate.engine"),
        (["inference={trt_engine: a.engine, engine: onnxruntime}"], "inference.engine"),
        (["train.ray.num_workers=5"], "dataset.classify.batch_size"),
        (["train.ray.num_workers=[3, 2]"], "train.ray.num_workers"),
        (["quantize.mode=static_ptq"], "quantize.mode"),
        (["quantize.backend=modelopt.pytorch", "quantize.algorithm=awq_lite"], "quantize.algorithm"),
        (["model.classify.train_margin_euclid=0.5"], "model.classify.train_margin_euclid"),
        (["model.classify.learnable_difference_modules=5"], "model.classify.learnable_difference_modules"),
    ],
)
def test_contradictions_are_errors_at_their_key(problems, overrides: list[str], key: str) -> None:
    (line,) = problems("", *overrides)
    assert f": {key}: " in line


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.checkpoint_interval=500", "train.checkpoint_interval_unit=step"],
        ["train.num_epochs=1"],
        ["model.backbone.type=timm/tf_efficientnet_lite0", "dataset.classify.image_width=100"],
        ["model.backbone.type=timm/tf_efficientnet_lite0", "model.backbone.pretrained_backbone_path=bundled"],
        [LIGHTS, "dataset.classify.concat_type=grid", "dataset.classify.grid_map={x: 4, y: 1}"],
        [EUCLIDEAN, "model.decode_head.feature_strides=[4,8,16,32]"],
        [EUCLIDEAN, "train.classify.cls_weight=[1.0, 10.0]"],
        ["dataset.classify.classes=[PASS, a, b]", "dataset.classify.num_classes=3"],
        ["dataset.classify.classes=[PASS, a, b]", "train.classify.cls_weight=[1, 2, 3]"],
        ["dataset.classify.classes=[a, b]", "train.classify.cls_weight=[1, 2, 3]"],
        [
            "dataset.classify={num_golden: 2, image_width: 112, image_height: 224}",
            "model.classify.golden_gradients=all",
        ],
        ["dataset.classify={num_golden: 3, image_width: 100}", "model.backbone.type=timm/tf_efficientnet_lite0"],
        ["train.ray.num_workers=4"],
        ["model.backbone.freeze_backbone=true", "model.backbone.pretrained_backbone_path=w.pth"],
        ["model.backbone.freeze_backbone=true", "train.pretrained_model_path=w.pth"],
    ],
)
def test_what_fits_passes_without_a_word(load, overrides: list[str]) -> None:
    assert load("", *overrides).warnings == ()


@pytest.mark.parametrize(
    ("encoder", "module", "side", "right"),
    [
        ("vit_large_nvdinov2", "euclidean", 518, True),
        ("vit_large_nvdinov2", "euclidean", 512, False),
        ("vit_large_nvdinov2", "learnable", 256, True),
        ("vit_large_nvdinov2", "learnable", 240, False),
        ("vit_base_dinov3", "euclidean", 240, True),
    ],
)
def test_sides_of_vit_pictures(load, problems, encoder: str, module: str, side: int, right: bool) -> None:
    overrides = [f"model.backbone.type={encoder}", f"model.classify.difference_module={module}"]
    overrides += [f"dataset.classify.image_{axis}={side}" for axis in ("width", "height")]
    if right:
        load("", *overrides)
    else:
        assert len(problems("", *overrides)) == 2


def test_several_goldens_name_the_sides_that_can_be_cut(problems) -> None:
    lines = problems(
        "", "dataset.classify={num_golden: 2, input_map: {a: 0, b: 1}, image_width: 128, image_height: 112}"
    )
    assert len(lines) == 1
    assert "several goldens fan_small_12_p4_hybrid needs a multiple of 112. Use for example 112 pixels" in lines[0]
    downsampled = ["model.backbone.feat_downsample=true", "dataset.classify={num_golden: 2, image_width: 112}"]
    assert all("multiple of 224" in line for line in problems("", *downsampled))


def test_vit_pictures_are_square(problems) -> None:
    (line,) = problems("", "model.backbone.type=vit_base_dinov3", "dataset.classify.image_width=256")
    assert "needs a square" in line


def test_a_check_of_two_keys_waits_until_both_are_right(problems) -> None:
    (line,) = problems("", "train.num_epochs=0", "train.validation_interval=50")
    assert "train.num_epochs: is 0" in line
