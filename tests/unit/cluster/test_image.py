"""The container file, which no machine without a builder can try: what can be said by reading it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pathspec import PathSpec

TARGETS = {"cpu", "cuda"}


@pytest.fixture(scope="module")
def steps(cluster_folder: Path) -> list[tuple[str, str]]:
    """The instructions, each with its arguments, without comments and with joined lines."""
    text = (cluster_folder / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined if line.strip())]


def stages(steps: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in steps:
        if word == "FROM":
            found[rest.split(" AS ")[1]] = []
        found[list(found)[-1]].append((word, rest))
    return found


def test_instructions_are_ones_that_exist(steps: list[tuple[str, str]]) -> None:
    assert {word for word, _ in steps} <= {"FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER"}


def test_the_base_is_pinned_to_a_python_that_we_support(steps: list[tuple[str, str]]) -> None:
    bases = [rest.split(" AS ")[0] for word, rest in steps if word == "FROM"]
    assert bases == [bases[0], "base", "base"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", bases[0])


def test_both_targets_run_as_a_user_without_rights(steps: list[tuple[str, str]]) -> None:
    found = stages(steps)
    assert set(found) == TARGETS | {"base"}
    for target in TARGETS:
        assert found[target][-1] == ("USER", "1000:1000")  # a number: Kubernetes cannot tell that a name is not root


def test_everything_is_installed_from_the_tested_versions(steps: list[tuple[str, str]]) -> None:
    installs = [part for _, rest in steps for part in rest.split("&&") if "pip install" in part]
    assert len(installs) == 3
    assert all("constraints.txt" in each for each in installs)


def test_extras_exist(cluster_folder: Path, steps: list[tuple[str, str]]) -> None:
    project = tomllib.loads((cluster_folder.parent / "pyproject.toml").read_text(encoding="utf-8"))
    named = {extra for _, rest in steps for each in re.findall(r"'\.\[([^]]+)\]'", rest) for extra in each.split(",")}
    assert {"cpu", "gpu"} <= named <= set(project["project"]["optional-dependencies"])


def test_no_secret_and_no_data_reach_the_builder(cluster_folder: Path) -> None:
    lines = (cluster_folder.parent / ".dockerignore").read_text(encoding="utf-8").splitlines()
    spec = PathSpec.from_lines("gitwildmatch", lines)
    for path in (".env", ".git/config", ".venv/bin/python", "data/a.png", "results/model.pth", "quickstart/x.csv"):
        assert spec.match_file(path), path
    for path in (
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "LICENSE",
        "changenet/data/images.py",
        "serve/app.py",
    ):
        assert not spec.match_file(path), path
