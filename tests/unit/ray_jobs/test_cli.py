from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from changenet import __version__
from changenet.errors import DataError, Problem, RunError
from ray_jobs import check, evaluate, inference, train
from ray_jobs.cli import app

runner = CliRunner()
VERBS = (
    "quickstart", "sample", "init", "models", "check", "train", "evaluate", "inference", "convert", "export", "seal",
    "unseal", "keys", "sign", "serve", "serve build",
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


def test_threads_of_every_verb_wait_without_taking_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    runner.invoke(app, ["check", "-e", "missing.yaml"])
    assert os.environ.pop("GOMP_SPINCOUNT") == "20000"


@pytest.mark.parametrize("flag", ["-e", "--experiment-spec-file", "--experiment_spec_file"])
def test_a_missing_spec_is_one_line_and_exit_code_2(flag: str) -> None:
    answer = runner.invoke(app, ["check", flag, "gone.yaml"])
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


def _raises(error: BaseException) -> Callable[..., object]:
    def run(*_: object, **__: object) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/disk/model.onnx"), 1, "/disk/model.onnx: No space left on"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "a file could not be written: No space left on device. "),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            1,
            "a file could not be written: Disk quota exceeded. Make room",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/theirs"),
            2,
            "/theirs: cannot be read or written: Permission denied. Choose another place",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "/file/x"),
            2,
            "/file/x: Not a directory. Choose another",
        ),
        (RunError("in use by process 7", where="/results"), 1, "/results: in use by process 7"),
        (DataError("no such file", where="a.csv"), 2, "a.csv: no such file"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    error: Exception, code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "run", _raises(error))
    answer = runner.invoke(app, ["check", "-e", "spec.yaml"])
    assert answer.exit_code == code
    assert answer.stderr.startswith(f"error: {line}")
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.EBADF, "Bad file descriptor")])
def test_a_failing_program_is_exit_code_1(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "run", _raises(error))
    answer = runner.invoke(app, ["check", "-e", "spec.yaml"])
    assert answer.exit_code == 1
    assert answer.exception is error


@pytest.mark.parametrize(("verb", "goes_on"), [(check, False), (evaluate, True), (inference, True), (train, True)])
def test_an_interrupt_is_exit_code_1_without_a_traceback(
    verb: Any, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "run", _raises(KeyboardInterrupt()))
    answer = runner.invoke(app, [verb.__name__.rpartition(".")[2], "-e", "spec.yaml"])
    assert answer.exit_code == 1
    wanted = "Interrupted. Run the same command again to go on." if goes_on else "Interrupted."
    assert answer.stderr.strip() == wanted


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
