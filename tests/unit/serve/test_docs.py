"""`changenet serve` in docs/serving.md: options and keys that there are."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from changenet.spec.serve import Serve
from ray_jobs import serve as verb
from ray_jobs import serve_build
from ray_jobs.cli import app
from serve.keys import Scope, read_keys

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^changenet serve.*$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text("serve: {models: [{name: pcb, bundle: b}]}\n")
    called = []
    monkeypatch.setattr(verb, "run", lambda **given: called.append(given) or 0)
    monkeypatch.setattr(serve_build, "run", lambda *given: called.append(given) or 0)
    ended = CliRunner().invoke(app, shlex.split(command)[1:])
    assert ended.exit_code == 0, ended.output
    assert called


def test_api_keys_are_made_as_written(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^changenet (api-key.*)$", PAGE, re.MULTILINE)
    for command in commands:
        assert CliRunner().invoke(app, shlex.split(command, comments=True)).exit_code == 0
    made = {key.name: key.allows(Scope.ADMIN) for key in read_keys("keys.txt")}
    assert made == {"line-3": False, "shift-lead": True}


def test_keys_are_there():
    named = set(re.findall(r"`serve\.(\w+)`", PAGE))
    assert named and named <= set(Serve.model_fields)
