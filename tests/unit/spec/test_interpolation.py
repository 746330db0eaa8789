from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changenet.spec.interpolation import arithmetic
from changenet.spec.stored import read_stored


def test_keys_defaults_environment_and_arithmetic(load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH", "16")
    experiment = load(
        "results_dir: /r\n"
        "dataset: {classify: {batch_size: '${oc.env:BATCH}', image_height: \"${eval:'${dataset.classify.image_width} // 2'}\", image_width: 256}}\n"
        "evaluate: {checkpoint: '${results_dir}/train/x.pth', batch_size: '${dataset.classify.workers}'}\n"
        "train: {optim: {lr: '${oc.env:LEARNING_RATE,0.01}'}, gpu_ids: ['${train.seed}']}\n"
    ).experiment
    assert experiment.dataset.classify.batch_size == 16
    assert experiment.light_size == (256, 128)
    assert experiment.evaluate.checkpoint == "/r/train/x.pth"
    assert experiment.evaluate.batch_size == 8
    assert experiment.train.optim.lr == 0.01
    assert experiment.train.gpu_ids == (1234,)


def test_a_whole_section_can_be_taken_over(load) -> None:
    experiment = load(
        "inference: {checkpoint: a.pth, engine: torch}\nexport: {checkpoint: '${inference.checkpoint}'}"
    ).experiment
    assert experiment.export.checkpoint == "a.pth"


def test_old_names_inside_an_interpolation_are_understood(load) -> None:
    experiment = load(
        "dataset: {classify: {input_width: 64, image_height: '${dataset.classify.input_width}'}}"
    ).experiment
    assert experiment.light_size == (64, 64)


@pytest.mark.parametrize(
    "text",
    [
        "${no.such.key}",
        "${oc.env:NO_SUCH_VARIABLE_}",
        "${results_dir}",
        "${eval:'1 / 0'}",
        "${eval:'__import__(1)'}",
        "${nonsense:1}",
    ],
)
def test_what_cannot_be_resolved_is_one_problem_with_its_key(problems, text: str) -> None:
    (line,) = problems("", f"results_dir={text}")
    assert "command line: results_dir" in line
    assert "cannot be resolved" in line


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "f(1)",
        "[1]",
        "1 if 1 else 2",
        "'a' * 9",
        "1 < 2",
        "True",
        "9 ** 99",
        "1e9 ** 2",
        "(-1) ** 0.5",
        "",
        "1 +",
        "1" * 300,
        "lambda: 1",
        "1j",
        "2 << 9",
    ],
)
def test_only_arithmetic_is_computed(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        arithmetic(text)


numbers = st.integers(-1000, 1000)


@settings(max_examples=100, deadline=None)
@given(numbers, numbers, numbers.filter(bool), st.sampled_from("+-*"))
def test_arithmetic_agrees_with_python(a: int, b: int, c: int, sign: str) -> None:
    expression = f"({a} {sign} {b}) // {c}"
    assert arithmetic(expression) == eval(expression)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789+-*/%(). ae", max_size=20))
def test_any_text_gives_a_number_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(arithmetic(text), int | float)


@pytest.mark.parametrize("unset", ["''", "null"])
def test_an_unset_results_dir_is_the_default_inside_an_interpolation_too(load, unset: str) -> None:
    experiment = load(f"results_dir: {unset}\nevaluate: {{checkpoint: '${{results_dir}}/train/x.pth'}}").experiment
    assert experiment.evaluate.checkpoint == "./results/train/x.pth"


def test_an_unset_environment_variable_is_named_without_jargon(problems) -> None:
    (line,) = problems("train: {num_epochs: '${oc.env:NOT_SET_HERE_}'}")
    assert "cannot be resolved: Environment variable 'NOT_SET_HERE_' not found." in line
    (line,) = problems("encryption_key: '${oc.env:NOT_SET_HERE_}'")
    assert "encryption_key: cannot be resolved." in line
    assert "export NOT_SET_HERE_=VALUE" in line


def test_the_passphrase_may_come_from_a_file(load, tmp_path: Path) -> None:
    (tmp_path / "the key").write_text("horse staple\n")
    loaded = load(f"encryption_key: \"${{file:'{tmp_path}/the key'}}\"")
    assert loaded.experiment.secret() == "horse staple"
    assert "horse" not in repr(loaded) + str(loaded.experiment.public())
    (tmp_path / "key").write_text("horse staple")
    assert load("", f"encryption_key=${{file:{tmp_path}/key}}").experiment.secret() == "horse staple"


@pytest.mark.parametrize("content", [None, "", "horse\nstaple\n"])
def test_a_file_that_holds_no_passphrase_is_one_problem(problems, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "key").write_text(content)
    (line,) = problems(f"encryption_key: ${{file:{tmp_path}/key}}")
    assert "encryption_key: cannot be resolved. ${file:PATH} names a readable file" in line
    assert "horse" not in line


@pytest.mark.parametrize("text", ["${file:%s}", "run of ${ file:%s}", "${oc.decode:'${file:%s}'}"])
def test_no_other_key_is_read_from_a_file(problems, tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text("horse staple")
    (line,) = problems("", f"results_dir={text % (tmp_path / 'key')}")
    assert "Only encryption_key may be read from a file" in line
    assert "horse" not in line


def test_a_stored_spec_asks_for_no_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("horse staple")
    stored = {"results_dir": f"${{file:{tmp_path}/key}}", "encryption_key": f"${{file:{tmp_path}/key}}"}
    experiment = read_stored(stored)
    assert (experiment.results_dir, experiment.encryption_key) == ("./results", None)
