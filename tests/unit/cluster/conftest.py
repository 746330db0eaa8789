"""Where the cluster files lie, and how a command inside them is read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def cluster_folder() -> Path:
    return ROOT / "cluster"


@pytest.fixture(scope="session")
def run_by_our_command() -> Callable[[str], dict[str, Any]]:
    """Reads `python -m ray_jobs VERB …` as the shell and our command would, and returns the options; any mistake raises."""

    def read(command: str) -> dict[str, Any]:
        from changenet.spec.loading import load_spec
        from ray_jobs.cli import app

        words = shlex.split(re.sub(r"\$\([^)]*\)", "2026-01-31", command))
        assert words[:3] == ["python", "-m", "ray_jobs"], command
        verb, *arguments = words[3:]
        verbs = typer.main.get_command(app).commands
        options: dict[str, Any] = verbs[verb].make_context(verb, arguments).params
        load_spec(ROOT / "specs" / "light.yaml", options.get("overrides") or ())
        return options

    return read
