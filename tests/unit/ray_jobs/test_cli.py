from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from changenet import __version__
from changenet.errors import DataError, Problem
from ray_jobs import check
from ray_jobs.cli import app

runner = CliRunner()
VERBS = (
    "quickstart", "sample", "init", "models", "check", "train", "evaluate", "inference", "convert", "export", "seal",
    "unseal", "keys", "sign", "serve",
)  # fmt: skip


def test_help_names_every_verb() -> None:
    answer = runner.invoke(app, ["--help"])
    assert answer.exit_code == 0
    assert all(verb in answer.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    answer = runner.invoke(app, [verb, "--help"])
    assert answer.exit_code == 0
    assert f"changenet {verb}" in answer.stdout or "Usage" in answer.stdout


def test_version() -> None:
    assert runner.invoke(app, ["--version"]).stdout.strip() == __version__


def test_a_missing_spec_is_one_line_and_exit_code_2() -> None:
    answer = runner.invoke(app, ["check", "-e", "gone.yaml"])
    assert answer.exit_code == 2
    (line,) = answer.stderr.strip().splitlines()
    assert line.startswith("error: gone.yaml")


def test_all_problems_are_reported_a_line_each(write_spec: Callable[..., str]) -> None:
    spec = write_spec(train__num_epoch=3, train__optim__lr=-1.0)
    answer = runner.invoke(app, ["check", "-e", spec])
    assert answer.exit_code == 2
    assert "num_epochs" in answer.stderr  # the nearest name
    assert "train.optim.lr" in answer.stderr
    assert all(line.startswith("error: ") for line in answer.stderr.strip().splitlines())


def test_line_numbers_are_no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise DataError("[x] is empty", where="train.csv:100")

    monkeypatch.setattr(check, "run", broken)
    answer = runner.invoke(app, ["check", "-e", "spec.yaml"])
    assert answer.stderr.strip() == "error: train.csv:100: [x] is empty"


def test_overrides_reach_the_verb(write_spec: Callable[..., str]) -> None:
    answer = runner.invoke(app, ["check", "-e", write_spec(), "dataset.classify.image_ext=.bmp"])
    assert answer.exit_code == 2
    assert ".bmp" in answer.output


def test_a_place_that_cannot_be_written_is_one_line(
    write_spec: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "/disk/model.onnx")

    monkeypatch.setattr(check, "run", full)
    answer = runner.invoke(app, ["check", "-e", write_spec()])
    assert answer.exit_code == 2
    assert "error: /disk/model.onnx: No space left on device" in answer.stderr


def test_a_failing_program_is_exit_code_1(write_spec: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(check, "run", broken)
    assert runner.invoke(app, ["check", "-e", write_spec()]).exit_code == 1


def test_an_interrupt_is_exit_code_1_without_a_traceback(
    write_spec: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "run", interrupted)
    answer = runner.invoke(app, ["check", "-e", write_spec()])
    assert answer.exit_code == 1
    assert "Interrupted" in answer.stderr


def test_every_problem_of_an_error_is_printed_whole(
    write_spec: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "a" * 300

    def wrong(*_: object, **__: object) -> None:
        raise DataError([Problem(f"[red]{long}[/red]", f"train.csv:{line}") for line in (3, 9)])

    monkeypatch.setattr(check, "run", wrong)
    answer = runner.invoke(app, ["check", "-e", write_spec()])
    assert answer.stderr.splitlines() == [f"error: train.csv:{line}: [red]{long}[/red]" for line in (3, 9)]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, ray_jobs.cli, changenet\n"
        "heavy = {'torch', 'ray', 'pandas', 'matplotlib', 'onnxruntime', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_module_is_the_same_command() -> None:
    answer = subprocess.run([sys.executable, "-m", "ray_jobs", "--version"], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == __version__
