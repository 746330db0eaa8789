from __future__ import annotations

import pytest

from changenet.spec.effects import TABLE

NO_EFFECT = [
    ("model_name=x", "model_name"),
    ("wandb.project=boards", "wandb"),
    ("wandb={name: a, tags: [b]}", "wandb"),
    ("model.decode_head.in_channels=[1,2,3,4]", "model.decode_head.in_channels"),
    ("model.decode_head.in_index=[0,1]", "model.decode_head.in_index"),
    ("model.classify.embedding_vectors=7", "model.classify.embedding_vectors"),
    ("model.classify.train_margin_euclid=3", "model.classify.train_margin_euclid"),
    ("model.classify.golden_gradients=all", "model.classify.golden_gradients"),
    ("model.precise_msda=true", "model.precise_msda"),
    ("dataset.classify.concat_type=grid", "dataset.classify.concat_type"),
    ("dataset.classify.grid_map={x: 4}", "dataset.classify.grid_map"),
    ("dataset.classify.quant_calibration_dataset.images_dir=c", "dataset.classify.quant_calibration_dataset"),
    ("dataset.classify.augmentation_config.random_flip.hflip_probability=0.1", "random_flip"),
    ("dataset.classify.augmentation_config.with_scale_random_crop.scale_range=[1, 2]", "with_scale_random_crop"),
    ("train.optim.momentum=0.5", "train.optim.momentum"),
    ("train.optim.betas=[0.9, 0.99]", "train.optim.betas"),
    ("train.checkpointer.save_top_k=3", "train.checkpointer.save_top_k"),
    ("train.checkpointer.filename=x{epoch}", "train.checkpointer.filename"),
    ("train.gpu_ids=[2]", "train.gpu_ids"),
    ("evaluate.vis_after_n_batches=3", "evaluate.vis_after_n_batches"),
    ("evaluate={checkpoint: c.pth, trt_engine: x}", "evaluate.trt_engine"),
    ("export.gpu_id=1", "export.gpu_id"),
    ("export.format=xdl", "export.format"),
    ("gen_trt_engine.input_height=512", "gen_trt_engine.input_height"),
    ("gen_trt_engine.tensorrt.workspace_size=8", "gen_trt_engine.tensorrt.workspace_size"),
    ("gen_trt_engine={batch_size: 4, tensorrt: {max_batch_size: 16}}", "gen_trt_engine.tensorrt.max_batch_size"),
    ("gen_trt_engine.tensorrt.calibration.cal_image_dir=[a]", "gen_trt_engine.tensorrt.calibration"),
    ("quantize.layers=[{module_name: '*', activations: {dtype: int8}}]", "quantize.layers[0].activations"),
    ("quantize.layers=[{module_name: '*', weights: {dtype: fp8_e5m2}}]", "quantize.layers[0].weights.dtype"),
    ("quantize.layers=[{module_name: '*', weights: {quant_axis: 1}}]", "quantize.layers[0].weights.quant_axis"),
    ("quantize.algorithm=entropy", "quantize.algorithm"),
    (
        "quantize={backend: modelopt.pytorch, layers: [{module_name: '*', weights: {observer_or_fake_quant: mse}}]}",
        "quantize.layers[0].weights.observer_or_fake_quant",
    ),
    ("quantize.backend_kwargs={a: 1}", "quantize.backend_kwargs"),
    ("quantize.device=trt", "quantize.device"),
    ("model.classify.eval_margin=2.0", "model.classify.eval_margin"),
    ("dataset.classify.num_classes=5", "dataset.classify.num_classes"),
]


@pytest.mark.parametrize(("override", "key"), NO_EFFECT)
def test_a_value_without_effect_is_exactly_one_warning(load, override: str, key: str) -> None:
    (warning,) = load("", override).warnings
    assert warning.startswith("command line: ")
    assert key in warning


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["model.classify.embed_dec=9"], "model.classify.embed_dec"),
        (["model.classify.learnable_difference_modules=2"], "learnable_difference_modules"),
        (["model.decode_head.align_corners=true"], "align_corners"),
        (["model.decode_head.decoder_params.embed_dim=9"], "decoder_params"),
        (["train.classify.cls_weight=[1, 5]"], "train.classify.cls_weight"),
    ],
)
def test_keys_of_the_learnable_comparison_say_so_with_the_euclidean_one(load, overrides: list[str], key: str) -> None:
    (warning,) = load("", "model.classify.difference_module=euclidean", *overrides).warnings
    assert key in warning


def test_a_vit_that_gives_a_vector_has_nothing_to_pool(load) -> None:
    vit = ("model.backbone.type=vit_base_dinov3", "dataset.classify={image_width: 224, image_height: 224}")
    euclidean = "model.classify.difference_module=euclidean"
    (warning,) = load("", *vit, euclidean, "model.classify.head=pool").warnings
    assert "model.classify.head" in warning
    assert load("", *vit, euclidean, "model.classify.head=flatten").warnings == ()
    assert load("", *vit, "model.classify.head=pool").warnings == ()


def test_the_monitor_that_loses_is_named(load) -> None:
    (warning,) = load("", "train.optim.monitor_name=val_acc", "train.checkpointer.monitor=val_far").warnings
    assert "train.optim.monitor_name" in warning


def test_weights_of_the_encoder_beside_those_of_the_whole_model_are_named(load) -> None:
    paths = ["model.backbone.pretrained_backbone_path=b.pth", "train.pretrained_model_path=m.pth"]
    (warning,) = load("", *paths).warnings
    assert "model.backbone.pretrained_backbone_path" in warning


def test_a_margin_without_part_in_the_threshold_is_named(load) -> None:
    (warning,) = load("", "model.classify.eval_margin=0.4", "evaluate.threshold.policy=recall").warnings
    assert "model.classify.eval_margin" in warning
    (warning,) = load("", "model.classify.eval_margin=0.4", "evaluate.threshold.target=0.9").warnings
    assert "evaluate.threshold.target" in warning


@pytest.mark.parametrize(
    "override",
    [
        "wandb={enable: true, project: TAO Toolkit, tags: [training, tao-toolkit]}",
        "wandb={enable: false, project: x}",
        "model.decode_head.in_channels=[128, 256, 384, 384]",
        "model.decode_head.use_summary_token=false",
        "train.use_distributed_sampler=true",
        "evaluate.ray.num_workers=[1, 2]",
        "train.ray.num_workers=[1, 2]",
        "train={num_gpus: 2, gpu_ids: [0, 1]}",
        "train.num_gpus=4",
        "evaluate.vis_after_n_batches=1",
        "export.opset_version=17",
        "export.on_cpu=true",
        "gen_trt_engine={input_width: 256, opset_version: 17, tensorrt: {max_batch_size: 1}}",
        "evaluate={trt_engine: x}",
        "inference={checkpoint: c.pth, trt_engine: x, engine: tensorrt}",
        "dataset.segment={root_dir: /d, img_size: 256, num_classes: 4, augmentation: {random_flip: {enable: false}}}",
        "train.segment={loss: mmiou, weights: [1]}",
        "dataset.classify.augmentation_config.random_flip.enable=false",
    ],
)
def test_taos_defaults_and_sections_of_other_tasks_are_silent(load, override: str) -> None:
    assert load("", override).warnings == ()


def test_every_entry_of_the_table_names_known_keys() -> None:
    assert [entry.path for entry in TABLE if not entry.defaults()] == []


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["train.early_stopping.patience=3"], "train.early_stopping"),
        (
            ["train.tensorboard={enabled: false, infrequent_logging_frequency: 3}"],
            "train.tensorboard.infrequent_logging_frequency",
        ),
        (
            [
                "dataset.classify.augmentation_config.augment=true",
                "dataset.classify.augmentation_config.random_color={enable: false, hue: 0.1}",
            ],
            "random_color.enable is false",
        ),
        (
            ["dataset.classify.augmentation_config={augment: true, random_shift: {max_pixels: 3}}"],
            "random_shift.enable is false",
        ),
    ],
)
def test_settings_of_what_is_switched_off_are_named(load, overrides: list[str], key: str) -> None:
    (warning,) = load("", *overrides).warnings
    assert key in warning


def test_the_widths_of_the_encoder_itself_are_no_warning(load) -> None:
    tiny = "model.backbone.type=fan_tiny_8_p4_hybrid"
    assert load("", tiny, "model.decode_head.in_channels=[128, 256, 192, 192]").warnings == ()
