"""Every command and program of docs/serving.md runs against the real service; that with a key, against one that wants it."""

import json
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def blocks(language):
    return [text for kind, text in FENCES if kind == language]


CURLS = [re.findall(r"^curl .*$", block.replace("\\\n", " "), re.MULTILINE) for block in blocks("")]


def test_every_command_is_found():
    assert sum(map(len, CURLS)) == len(re.findall(r"^curl ", PAGE, re.MULTILINE))


# tests/unit/serve/test_docs.py has the ones with a key: this service has none, and would not look at it.
@pytest.mark.parametrize("commands", [each for each in CURLS if each and "$KEY" not in "".join(each)])
def test_commands_run_as_they_stand(service, successor, pictures, tmp_path, commands):
    for name, content in zip(("test", "golden", "other"), pictures, strict=False):
        (tmp_path / f"{name}.png").write_bytes(content)
    (manifest,) = (text for text in blocks("json") if text.startswith("[{"))
    (tmp_path / "board.json").write_text(manifest)
    for command in commands:
        command = command.replace("http://127.0.0.1:8000", service).replace("/models/pcb-42", successor)
        command = command.replace("curl ", "curl -sS --fail-with-body ", 1)
        ended = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"


def test_the_program_runs_as_it_stands(service, capsys):
    (program,) = blocks("python")
    exec(program.replace("127.0.0.1:8000", urlsplit(service).netloc), {})
    assert capsys.readouterr().out.startswith("[")


def test_answers_have_the_fields_that_the_page_shows(service, pictures):
    import httpx

    shown = json.loads(blocks("json")[0])
    files = {"test": pictures[0], "golden": pictures[1]}
    answer = httpx.post(f"{service}/v1/models/pcb/inspect", files=files, timeout=60).json()
    assert answer.keys() == shown.keys()
    boards = next(json.loads(text) for text in blocks("json") if '"results"' in text)
    data = {"manifest": json.dumps([{"id": "C1", "test": {"": "t"}, "golden": {"": "t"}}])}
    answer = httpx.post(
        f"{service}/v1/models/pcb/inspect_batch", data=data, files={"t": pictures[0]}, timeout=60
    ).json()
    assert answer.keys() == boards.keys() and answer["results"][0].keys() == boards["results"][0].keys()
