from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from changenet.spec import Experiment


def classify(**values: object) -> Experiment:
    return Experiment.model_validate({"model": {"classify": values}})


def test_the_defaults_are_the_documented_ones() -> None:
    e = Experiment()
    data, optim = e.dataset.classify, e.train.optim
    assert (e.task, e.loss, e.model.classify.difference_module, e.results_dir) == (
        "classify",
        "ce",
        "learnable",
        "./results",
    )
    assert (data.batch_size, data.workers, data.fpratio_sampling, data.augmentation_config.augment) == (
        32,
        8,
        0.1,
        False,
    )
    assert (optim.lr, optim.weight_decay, optim.optim, optim.policy) == (0.0005, 0.1, "adamw", "linear")
    assert (e.model.classify.embed_dec, e.train.classify.cls_weight, e.lights) == (30, None, ("",))
    assert (e.light_size, e.picture_size, e.num_classes, e.classes) == ((128, 128), (128, 128), 2, ("PASS", "defect"))


def test_vit_lights_are_224_unless_written() -> None:
    assert Experiment.model_validate({"model": {"backbone": {"type": "vit_base_dinov3"}}}).light_size == (224, 224)


@pytest.mark.parametrize(
    ("values", "margin", "policy"),
    [
        ({}, 0.5, "recall"),
        ({"eval_margin": 0.3}, 0.3, "margin"),
        ({"eval_margin": 2.0}, 0.5, "margin"),
        ({"difference_module": "euclidean"}, 1.0, "recall"),
        ({"difference_module": "euclidean", "train_margin_euclid": 3}, 1.5, "recall"),
        ({"difference_module": "euclidean", "eval_margin": 2.0}, 2.0, "margin"),
    ],
)
def test_margin_and_threshold_policy(values: dict[str, object], margin: float, policy: str) -> None:
    e = classify(**values)
    assert (e.eval_margin, e.threshold_policy, e.threshold_target) == (margin, policy, 1.0)
    assert e.threshold_written is ("eval_margin" in values)


def test_a_written_threshold_policy_wins() -> None:
    e = Experiment.model_validate(
        {"evaluate": {"threshold": {"policy": "recall", "target": 0.9}}, "model": {"classify": {"eval_margin": 0.2}}}
    )
    assert (e.threshold_policy, e.threshold_target) == ("recall", 0.9)


@pytest.mark.parametrize(
    ("optim", "checkpointer", "monitor"),
    [
        ("val_loss", {}, ("val_loss", "min")),
        ("val_auroc", {}, ("val_auroc", "max")),
        ("val_acc", {}, ("val_acc", "max")),
        ("val_loss", {"monitor": "val_average_precision"}, ("val_average_precision", "max")),
        ("val_far", {"mode": "max"}, ("val_far", "max")),
    ],
)
def test_the_metric_of_the_best_checkpoint(optim: str, checkpointer: dict[str, str], monitor: tuple[str, str]) -> None:
    e = Experiment.model_validate({"train": {"optim": {"monitor_name": optim}, "checkpointer": checkpointer}})
    assert e.monitor == monitor


def test_classes_with_and_without_pass() -> None:
    for listed in (["PASS", "open"], ["open"] * 0 + ["open", "short"]):
        e = Experiment.model_validate({"dataset": {"classify": {"classes": listed}}})
        assert e.classes[0] == "PASS"
        assert e.num_classes == len(e.classes) == len({"PASS", *listed})


def test_tao_meaning_of_num_classes_widens_the_output_only() -> None:
    e = Experiment.model_validate({"dataset": {"classify": {"num_classes": 5}}})
    assert (e.num_classes, e.classes) == (5, ("PASS", "defect"))


def test_lights_are_laid_out() -> None:
    data = {"input_map": {"b": 1, "a": 0, "c": 2, "d": 3}, "image_width": 32, "image_height": 16}
    e = Experiment.model_validate({"dataset": {"classify": data}})
    assert (e.lights, e.grid, e.picture_size) == (("b", "a", "c", "d"), (1, 4), (64, 32))
    e = Experiment.model_validate({"dataset": {"classify": {**data, "concat_type": "grid"}}})
    assert (e.grid, e.picture_size) == ((2, 2), (32, 64))


def test_heads_follow_the_encoder() -> None:
    assert classify().head == "flatten"
    timm = {"backbone": {"type": "timm/resnet18"}}
    assert Experiment.model_validate({"model": timm}).head == "pool"
    assert Experiment.model_validate({"model": {**timm, "classify": {"head": "flatten"}}}).head == "flatten"


def test_folders_batches_and_gpus() -> None:
    e = Experiment.model_validate(
        {
            "results_dir": "s3://b/r/",
            "evaluate": {"results_dir": "/e", "batch_size": 4},
            "train": {"gpu_ids": [0, 1, 2], "num_gpus": 2},
            "quantize": {"results_dir": ""},
        }
    )
    assert (e.action_dir("train"), e.action_dir("evaluate"), e.action_dir("quantize")) == (
        "s3://b/r/train",
        "/e",
        "s3://b/r/quantize",
    )
    assert e.action_dir("check") == "s3://b/r/check"
    assert [e.batch_size(action) for action in ("train", "evaluate", "inference")] == [32, 4, 32]
    assert e.num_gpus("train") == 3


def test_nothing_can_be_changed_after_loading() -> None:
    e = Experiment.model_validate({"dataset": {"classify": {"input_map": {"a": 0}}}})
    with pytest.raises(ValidationError):
        e.train.num_epochs = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="frozen"):
        e.dataset.classify.input_map["b"] = 1
    assert isinstance(e.train.gpu_ids, tuple)


def test_experiments_travel_by_pickle() -> None:
    served = [{"name": "m", "bundle": "b"}]
    e = Experiment.model_validate(
        {"encryption_key": "k", "dataset": {"classify": {"input_map": {"a": 0}}}, "serve": {"models": served}}
    )
    assert pickle.loads(pickle.dumps(e)) == e


specs = st.fixed_dictionaries(
    {},
    optional={
        "results_dir": st.text(min_size=1, max_size=8),
        "encryption_key": st.text(min_size=1, max_size=8),
        "model": st.fixed_dictionaries(
            {},
            optional={
                "classify": st.fixed_dictionaries(
                    {},
                    optional={
                        "eval_margin": st.floats(0, 3),
                        "difference_module": st.sampled_from(["learnable", "euclidean"]),
                    },
                )
            },
        ),
        "dataset": st.fixed_dictionaries(
            {},
            optional={
                "classify": st.fixed_dictionaries(
                    {},
                    optional={
                        "input_map": st.dictionaries(
                            st.text(min_size=1, max_size=4), st.integers(0, 9), min_size=1, max_size=4
                        ),
                        "augmentation_config": st.fixed_dictionaries(
                            {}, optional={"rgb_input_mean": st.just([0.485, 0.456, 0.406]), "augment": st.booleans()}
                        ),
                    },
                )
            },
        ),
        "train": st.fixed_dictionaries(
            {},
            optional={"ray": st.fixed_dictionaries({}, optional={"num_workers": st.integers(1, 4) | st.just([1, 2])})},
        ),
    },
)


@settings(max_examples=60, deadline=None)
@given(specs)
def test_public_values_survive_json_and_rebuild_the_experiment(values: dict[str, object]) -> None:
    e = Experiment.model_validate(values)
    public = e.public()
    again = Experiment.from_public(json.loads(json.dumps(public)))
    assert "encryption_key" not in public
    assert again == e.model_copy(update={"encryption_key": None})
    assert again.public() == public
    assert again.threshold_written == e.threshold_written
    written = e.dataset.classify.augmentation_config.model_fields_set - {"augment"}
    assert again.dataset.classify.augmentation_config.model_fields_set - {"augment"} == written
