from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions
import ray.train
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from typer.testing import CliRunner

from changenet.errors import ChangeNetError, SpecError
from ray_jobs import check, cluster
from ray_jobs.cli import app
from ray_jobs.failures import cluster_failure, ours
from ray_jobs.listening import free_port
from ray_jobs.restarts import Restarts


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ControllerError(WorkerGroupStartupTimeoutError(4)), "the workers did not start in time"),
        (WorkerGroupError("rank 1", {1: ray.exceptions.OutOfMemoryError("killed: 99 %")}), "ran out of memory"),
        (ray.exceptions.ActorUnschedulableError("no node has 9 CPUs"), "no room on the cluster"),
        (ray.exceptions.ActorDiedError(), "a process of the run, or its machine, is gone"),
        (ray.exceptions.GetTimeoutError("60 s"), "did not answer in time"),
        (ray.exceptions.NodeDiedError("10.0.0.2"), "a machine of the run is gone"),
        (WorkerGroupError("rank 0", {0: OSError(errno.ENOSPC, "No space left")}), "the disk of a machine is full"),
        (
            WorkerGroupError("rank 0", {0: RuntimeError("[gloo] Connection closed by peer")}),
            "lost touch with the others",
        ),
    ],
)
def test_a_failure_of_the_cluster_is_one_line_and_exit_code_1(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, write_spec: Callable[..., str], tmp_path: Path
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(check, "_scan", fails)
    answer = CliRunner().invoke(app, ["check", "-e", write_spec()])
    assert answer.exit_code == 1
    (line,) = answer.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert "Run the same command again" in line or "`ray status`" in line or "then run the same command" in line
    assert told in (tmp_path / "results" / "check" / "status.json").read_text().splitlines()[-1]


def test_an_error_in_a_program_keeps_its_traceback() -> None:
    wrong = TypeError("an int is no list")
    task = ray.exceptions.RayTaskError("train", "Traceback ...", wrong)
    assert cluster_failure(wrong) is None
    assert cluster_failure(WorkerGroupError("rank 0", {0: UserExceptionWithTraceback(wrong, "Traceback ...")})) is None
    assert cluster_failure(ray.exceptions.ActorDiedError(task)) is None


def test_an_error_of_ours_is_found_behind_those_of_ray() -> None:
    error = SpecError("diverged")
    inner = UserExceptionWithTraceback(error, "Traceback ...")
    assert ours(WorkerGroupError("", {0: ray.exceptions.NodeDiedError("gone"), 1: inner})) is error  # type: ignore[dict-item]
    assert ours(ControllerError(TypeError("?"))) is None


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("10.0.0.1:6379", 2, "10.0.0.1:6379: the Ray cluster cannot be joined"),
        (None, 1, "Ray does not start on this machine"),
    ],
)
def test_a_ray_that_is_not_there_is_one_line(
    address: str | None, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**_: Any) -> None:
        raise Exception("The current node timed out during startup.\nMore.")

    monkeypatch.setattr(ray, "init", fails)
    monkeypatch.setattr(cluster, "_reach", lambda _: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ChangeNetError) as raised:
        cluster.connect(address)
    assert raised.value.exit_code == code
    assert str(raised.value).startswith(f"{said} (The current node timed out during startup.)")


def test_an_address_where_nobody_listens_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ChangeNetError, match=f"{address}: the Ray cluster cannot be joined .*refused"):
        cluster.connect(address)


def test_why_workers_stopped_is_said_once_unless_the_command_ends_with_it() -> None:
    shown: list[Any] = []
    remote = SimpleNamespace(remote=lambda *arguments: shown.append(arguments))
    callback = Restarts(SimpleNamespace(show=remote, log=remote))
    callback.after_exception(None, {0: RuntimeError("[gloo] timed out"), 1: ray.exceptions.NodeDiedError("10.0.0.2")})
    (_, _, total), (_, _, text) = shown
    assert total is None, "nobody works"
    assert text.startswith("The workers stopped: a worker lost touch with the others")
    callback.after_exception(None, {0: SpecError("diverged")})
    assert len(shown) == 2
    callback.after_exception(None, {0: RuntimeError("[gloo] timed out")})
    assert shown[-1][-1].startswith("The workers stopped, for the 2. time: "), "the monitor says nothing twice"
