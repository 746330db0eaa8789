from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from changenet.errors import ChangeNetError, RunError
from changenet.run_lock import RunLock


def test_a_second_run_in_the_folder_is_told_who_is_there(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(RunError, match="process"):
        RunLock(tmp_path).__enter__()
    with RunLock(tmp_path):
        pass


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    code = "import os, sys; from changenet.run_lock import RunLock; RunLock(sys.argv[1]).__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    with RunLock(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "run", "nosuchprotocol://bucket/run"):
        with pytest.raises(ChangeNetError, match="cannot be") as raised:
            RunLock(folder).__enter__()
        assert len(raised.value.problems) == 1
