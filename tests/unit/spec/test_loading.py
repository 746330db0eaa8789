from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from changenet.errors import SpecError
from changenet.spec import load_spec

TAO_SPEC = """
task: classify
results_dir: /results
encryption_key: null
model:
  backbone: {type: fan_small_12_p4_hybrid, pretrained_backbone_path: null, freeze_backbone: false, feat_downsample: false}
  decode_head: {feature_strides: [4, 8, 16, 16], align_corners: false, use_summary_token: true, decoder_params: {embed_dim: 256}}
  classify: {difference_module: learnable, learnable_difference_modules: 4, embed_dec: 30,
             embedding_vectors: 5, train_margin_euclid: 2.0, eval_margin: 0.5}
dataset:
  classify:
    train_dataset: {csv_path: train.csv, images_dir: images/}
    validation_dataset: {csv_path: "???", images_dir: images/}
    image_ext: .jpg
    batch_size: 16
    workers: 2
    fpratio_sampling: 0.2
    num_input: 4
    input_map: {LowAngleLight: 0, SolderLight: 1, UniformLight: 2, WhiteLight: 3}
    concat_type: linear
    grid_map: {x: 2, y: 2}
    image_width: 128
    image_height: 128
    num_classes: 2
    num_golden: 1
    augmentation_config: {augment: false, rgb_input_mean: [0.485, 0.456, 0.406], rgb_input_std: [0.229, 0.224, 0.225]}
train:
  num_epochs: 30
  classify: {loss: ce, cls_weight: [1.0, 10.0]}
  optim: {optim: adamw, lr: 1.0e-4, policy: linear, momentum: 0.9, weight_decay: 0.01}
export: {input_width: 128, input_height: 512, batch_size: -1, opset_version: 17}
"""


def test_a_tao_spec_loads_without_a_word(load) -> None:
    loaded = load(TAO_SPEC)
    assert loaded.warnings == ()
    assert loaded.experiment.lights == ("LowAngleLight", "SolderLight", "UniformLight", "WhiteLight")
    assert loaded.experiment.picture_size == (512, 128)
    assert loaded.experiment.train.optim.lr == 1e-4
    assert loaded.experiment.dataset.classify.validation_dataset.csv_path == ""  # ??? = not given yet


def test_an_empty_file_and_empty_sections_are_the_defaults(load) -> None:
    assert load("").experiment == load("model:\ntrain: {optim: null}\n").experiment


def test_empty_text_means_not_given_where_taos_specs_write_it(load) -> None:
    e = load(
        "results_dir: ''\nencryption_key: ''\ntrain: {resume_training_checkpoint_path: ''}\ndataset: {classify: {image_ext: ''}}"
    ).experiment
    assert (e.results_dir, e.encryption_key, e.train.resume_training_checkpoint_path) == ("./results", None, None)
    assert e.dataset.classify.image_ext == ""  # a name without suffix is a name


def test_all_problems_come_at_once_with_place_value_and_what_is_allowed(problems) -> None:
    lines = problems(
        "train: {num_epochs: 0, optim: {optim: lion}, tensorboard: 3}\ndataset: {classify: {input_map: [a]}}\nevaluate: {batch_size: 0}",
        "train.precision=8",
    )
    text = "\n".join(lines)
    assert len(lines) == 6
    assert "spec.yaml: train.num_epochs: is 0. Allowed: whole number, 1 or more." in text
    assert "spec.yaml: train.optim.optim: is 'lion'. Allowed: adamw, adam or sgd." in text
    assert "spec.yaml: train.tensorboard: is 3. Allowed: a section" in text
    assert "spec.yaml: dataset.classify.input_map: is ['a']." in text
    assert "spec.yaml: evaluate.batch_size: is 0. Allowed: -1 or whole number, 1 or more." in text
    assert "command line: train.precision: is 8. Allowed: 32-true, bf16-mixed or 16-mixed." in text


@pytest.mark.parametrize(
    ("key", "guess"),
    [
        ("train.num_epoch", "train.num_epochs"),
        ("train.lr", "train.optim.lr"),
        ("trains", "train"),
        ("dataset.batch_size", "dataset.classify.batch_size"),
        ("model.classify.difference_modul", "model.classify.difference_module"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(problems, key: str, guess: str) -> None:
    (line,) = problems("", f"{key}=7")
    assert f"{key}: is not a key of the spec (value 7). Did you mean {guess}?" in line


def test_an_unknown_key_without_a_likeness_lists_what_is_allowed_there(problems) -> None:
    (line,) = problems("train: {ray: {zzzzzz: 1}}")
    assert "Allowed here: num_workers, use_gpu, resources_per_worker, storage_path, max_failures" in line


@pytest.mark.parametrize("value", ["true", "1.5", "many", "[1]", "null", ".nan"])
def test_wrong_types_are_refused(problems, value: str) -> None:
    (line,) = problems("", f"train.num_epochs={value}")
    assert "train.num_epochs" in line


def test_wrong_items_of_a_list_of_sections_are_named_by_index(problems) -> None:
    lines = problems("quantize: {layers: [{module_name: '*', weights: {dtype: int4}}, {weights: null}]}")
    assert "quantize.layers[0].weights.dtype: is 'int4'" in lines[0]
    assert "quantize.layers[1].module_name: is missing" in lines[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "is not YAML"),
        (b"- 1", "is a list"),
        (b"train: {num_epochs: 1, num_epochs: 2}", "duplicate"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"results_dir: ${oc.env", "begins no interpolation"),
        (b"a: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_files_that_are_no_specs_are_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_bytes(content)
    with pytest.raises(SpecError, match=message) as caught:
        load_spec(file)
    assert len(caught.value.problems) == 1


def test_a_missing_file_is_a_spec_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        load_spec(tmp_path / "none.yaml")


def test_segmentation_is_one_clear_error(problems) -> None:
    (line,) = problems(
        "task: segment\nmodel: {backbone: {type: vit_large_nvdinov2}}\ndataset: {segment: {root_dir: /d}}"
    )
    assert "task: is 'segment': segmentation is not available in this version" in line


SECRET = "s3cr3t-passphrase"


def test_the_key_is_never_shown_when_it_is_right(load) -> None:
    loaded = load("", f"encryption_key={SECRET}", "wandb.project=x", "train.val_interval=1")
    assert loaded.experiment.secret() == SECRET
    for text in (repr(loaded), str(loaded.experiment), str(loaded.experiment.public()), *loaded.warnings):
        assert SECRET not in text


@pytest.mark.parametrize(
    "override",
    [
        f"encryption_key=[{SECRET}]",
        f"encryption_key={{a: {SECRET}}}",
        f"encryption_key=[{SECRET}",
        f"encryption_keys={SECRET}",
        f"encrytion_key={SECRET}",
        f"encryption_key.a={SECRET}",
        f"encryption_key=${{{SECRET}",
        f"encryption_key=${{{SECRET}}}",
    ],
)
def test_the_key_is_never_shown_when_it_is_wrong(problems, override: str) -> None:
    assert all(SECRET not in line for line in problems("", override))


def test_the_key_cannot_be_copied_elsewhere(problems) -> None:
    (line,) = problems(f"encryption_key: {SECRET}\nwandb: {{name: '${{encryption_key}}'}}")
    assert "would copy a secret" in line
    assert SECRET not in line


def test_numbers_as_passphrase_must_be_quoted(problems, load) -> None:
    (line,) = problems("encryption_key: 0123")
    assert "text in quotes" in line
    assert load("encryption_key: '0123'").experiment.secret() == "0123"


def test_the_written_experiment_is_itself_a_spec(load) -> None:
    first = load(TAO_SPEC, "encryption_key=abc", "train.ray.num_workers=2").experiment
    again = load(yaml.safe_dump(first.public(), sort_keys=False))
    assert again.warnings == ()
    assert again.experiment.public() == first.public()


def test_a_name_that_yaml_reads_as_no_name_is_an_error(problems) -> None:
    (line,) = problems("dataset: {classify: {input_map: {NO: 0, NC: 1}}}")
    assert "dataset.classify.input_map.False: is a key that YAML reads as false. Put the name in quotes." in line
    (line,) = problems("", "dataset.classify.input_map={A: 0, on: 1}")
    assert "YAML reads as true" in line
    (line,) = problems("train: {~: 1}")
    assert "spec.yaml: train: cannot be read: Incompatible key type 'NoneType'. Mend the file." in line


def test_a_file_that_is_no_spec_is_not_printed_as_a_key(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("input_path,golden_path,label,object_name\na,b,PASS,c\n" * 50, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_spec(file)
    assert str(caught.value) == f"{file}: is text, not a mapping of sections. Give the spec; CSV files are named in it."
