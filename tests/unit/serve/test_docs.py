"""`changenet serve` in docs/serving.md: options and keys that there are; an API key that opens what it should."""

import os
import re
import shlex
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from changenet.spec.serve import Serve
from ray_jobs import serve as verb
from ray_jobs import serve_build
from ray_jobs.cli import app
from serve.keys import KeyRing, Scope, read_keys

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^changenet serve.*$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text("serve: {models: [{name: pcb, bundle: b}]}\n")
    called = []
    monkeypatch.setattr(verb, "run", lambda **given: called.append(given) or 0)
    monkeypatch.setattr(serve_build, "run", lambda *_, **given: called.append(given) or 0)
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


@pytest.fixture
def locked(app_of, models, monkeypatch, tmp_path):
    """A service that wants the keys of `keys.txt` here, at its URL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("logging.raiseExceptions", False)  # the command logs to what captures it, and then is gone
    Path("keys.txt").write_text("changenet-keys 1\n")
    served = app_of(*models.values(), keys=KeyRing(str(tmp_path / "keys.txt")))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(served, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_the_key_that_is_made_as_written_opens_the_service_as_written(locked, picture):
    make, ask = (re.search(rf"^{begin}.*$", PAGE, re.MULTILINE)[0] for begin in ("changenet api-key", 'curl -H "Auth'))
    made = CliRunner().invoke(app, shlex.split(make, comments=True)[1:])
    for name in ("test.png", "golden.png"):
        Path(name).write_bytes(picture(9))
    time.sleep(1.1)  # a service looks at the file once a second
    curl = ask.replace("http://127.0.0.1:8000", locked).replace("curl ", "curl -sS --fail-with-body ", 1)
    codes = []
    for key in (re.search(r"cn_\S+", made.stdout)[0], "cn_wrong"):
        run = subprocess.run(
            curl, shell=True, env={**os.environ, "KEY": key}, capture_output=True, text=True, check=False
        )
        codes.append((run.returncode, '"prediction"' in run.stdout, '"status":401' in run.stdout))
    assert codes == [(0, True, False), (22, False, True)]
    assert httpx.get(f"{locked}/v1/models").status_code == 401
