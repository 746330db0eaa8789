"""`ray job submit` of every action, on a cluster with token authentication.

`quickstart` is left out: it is these actions one after another, for minutes, and has a test of its own.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from changenet import storage
from changenet.training.checkpoint import load_checkpoint
from ray_jobs.listening import free_port

Write = Callable[..., str]
ROOT = Path(__file__).parents[2]
HOST = "127.0.0.2"
PATIENCE = 540.0  # seconds; other tests run beside these
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Jobs:
    """A cluster that takes jobs, and the environment of a terminal that knows its token."""

    url: str
    environment: dict[str, str]
    headers: dict[str, str]

    def ray(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `ray job …` in the root of the project."""
        return subprocess.run(
            [str(Path(sys.executable).with_name("ray")), "job", command[0], "--address", self.url, *command[1:]],
            env={**self.environment, **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def run(self, *actions: str) -> str:
        """Submit shell commands as one job, wait until it has succeeded, and return what it printed."""
        command = ["bash", "-c", " && ".join(actions)] if len(actions) > 1 else shlex.split(actions[0])
        done = self.ray("submit", "--working-dir", ".", "--", *command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str, action: str) -> None:
        """Submit one shell command as a job, without waiting for it."""
        options = ("--working-dir", ".", "--submission-id", name, "--no-wait")
        begun = self.ray("submit", *options, "--", *shlex.split(action))
        assert begun.returncode == 0, begun.stderr

    def wait_for(self, name: str, true: Callable[[], bool]) -> None:
        """Wait for what a job that was started brings about, as long as it runs."""

        def ended() -> bool:
            job = httpx.get(f"{self.url}/api/jobs/{name}", headers=self.headers, timeout=60).json()
            return job["status"] not in ("PENDING", "RUNNING")

        _wait_until(lambda: true() or ended())
        assert true(), self.ray("logs", name).stdout


@pytest.fixture(scope="module")
def jobs() -> Iterator[Jobs]:
    """A head with everything of its own: token, ports, folder, processes."""
    url = f"http://{HOST}:{free_port(HOST)}"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True)))
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_JOB_STOP_WAIT_TIME_S": "60",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # an activated environment
        }
        command = f"""ray start --head --block --num-cpus=2 --node-ip-address={HOST} --port=0 --dashboard-host={HOST}
            --dashboard-port={url.rpartition(":")[2]} --dashboard-agent-listen-port={free_port(HOST)}
            --ray-client-server-port={free_port(HOST)} --min-worker-port=0 --max-worker-port=0 --temp-dir={folder}/ray"""
        log = stack.enter_context((folder / "log").open("w"))
        head = subprocess.Popen(
            command.split(), env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            headers = {"Authorization": f"Bearer {token.read_text()}"}
            _wait_until(lambda: _answers(f"{url}/api/version", **headers))
            yield Jobs(url, environment, headers)
        finally:
            os.killpg(head.pid, signal.SIGKILL)  # what it has started, and nothing else; workers go with their raylet
            head.wait()


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def _answers(url: str, **headers: str) -> bool:
    try:
        return httpx.get(url, headers=headers, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_without_the_token_nothing_is_submitted(jobs: Jobs, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    none = jobs.ray("submit", "--", "touch", str(mark), RAY_AUTH_MODE="disabled")
    wrong = jobs.ray("submit", "--", "touch", str(mark), RAY_AUTH_TOKEN=secrets.token_hex(32))
    for refused in (none, wrong):
        assert refused.returncode == 1
        assert "AuthenticationError" in refused.stderr
    assert not mark.exists()


LOOK = """
import json, os, sys, changenet, ray
ray.init()
near = [sys.executable, changenet.__file__, os.getcwd()]
@ray.remote
def look():
    return [sys.executable, changenet.__file__, os.getcwd()]
print(json.dumps({"files": sorted(os.listdir()), "driver": near, "worker": ray.get(look.remote())}))
"""


def test_code_travels_and_the_environment_is_that_of_ray_start(jobs: Jobs) -> None:
    line = next(line for line in jobs.run(shlex.join(["python", "-c", LOOK])).splitlines() if line.startswith("{"))
    found = json.loads(line)
    specs = {path.name for path in ROOT.glob("*.yaml") if not path.name.startswith(".")}
    assert set(found["files"]) - {"__pycache__"} == {"changenet", "ray_jobs", "serve", "specs"} | specs
    for python, package, folder in (found["driver"], found["worker"]):
        assert python == str(Path(sys.executable))
        assert Path(folder) != ROOT
        assert Path(package) == Path(folder, "changenet", "__init__.py"), (
            "the uploaded code wins over the installed one"
        )


def test_actions_that_need_no_cluster(jobs: Jobs, tmp_path: Path, write_tao: Write, tao_spec: dict[str, Any]) -> None:
    boards, spec, tao, ours = (tmp_path / name for name in ("boards", "new.yaml", "tao.yaml", "ours.pth"))
    tao.write_text(yaml.safe_dump(tao_spec))
    printed = jobs.run(
        f"python -m ray_jobs sample {boards} --pairs 40 --size 32",
        f"python -m ray_jobs check -e {boards}/spec.yaml --json > {tmp_path}/findings.json",
        f"python -m ray_jobs init --out {spec}",
        f"python -m ray_jobs convert --from {write_tao()} -e {tao} --to {ours}",
        "python -m ray_jobs models fan_tiny",
    )
    assert "fan_tiny_8_p4_hybrid" in printed
    assert (boards / "train.csv").exists()
    assert json.loads((tmp_path / "findings.json").read_text())["ok"]
    assert "dataset:" in spec.read_text()
    assert ours.exists()


def test_a_network_is_trained_judged_exported_and_served(
    jobs: Jobs, write_spec: Write, pair_folder: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    best = results / "train" / "model_best.pth"
    spec = write_spec(train__num_epochs=1, evaluate__checkpoint=str(best), inference__checkpoint=str(best))
    jobs.start("train", f"python -m ray_jobs train -e {spec} train.num_epochs=400 train.checkpoint_interval=400")
    jobs.wait_for("train", (results / "train" / "metrics.csv").exists)
    assert jobs.ray("stop", "train").returncode == 0
    latest = results / "train" / "changenet_model_classify_latest.pth"
    done = load_checkpoint(str(latest)).training["progress"]["epoch"]
    # Nothing grows this cluster: GPUs that it does not have are not waited for.
    several = "train.ray.num_workers=2 train.ray.use_gpu=true"
    jobs.run(f"python -m ray_jobs train -e {spec} train.num_epochs={done + 1} {several}")
    assert load_checkpoint(str(latest)).training["progress"]["epoch"] == done + 1
    rule = shlex.quote('quantize.layers=[{module_name: "*", weights: {dtype: int8}}]')
    actions = [
        f"python -m ray_jobs evaluate -e {spec}",
        f"python -m ray_jobs inference -e {spec}",
        f"python -m ray_jobs export -e {spec} export.checkpoint={best}",
        f"python -m ray_jobs quantize -e {spec} quantize.model_path={best} quantize.backend=torchao {rule}",
    ]
    if has_tensorrt := find_spec("tensorrt_rtx") is not None:  # for a GPU that is elsewhere
        actions.append(f"python -m ray_jobs gen_trt_engine -e {spec} gen_trt_engine.tensorrt.compute_capability=8.9")
    jobs.run(*actions)
    assert json.loads((results / "evaluate" / "metrics.json").read_text())["pairs"] == 24
    assert len((results / "inference" / "inference.csv").read_text().splitlines()) == 25
    for action in ("train", "evaluate", "inference", "export", "quantize"):
        last = storage.read_text(str(results / action / "status.json")).splitlines()[-1]
        assert json.loads(last)["status"] == "SUCCESS"
    assert (results / "gen_trt_engine" / "model.engine").exists() == has_tensorrt

    port = free_port()
    jobs.start("serve", f"python -m ray_jobs serve --model pcb={results}/export/bundle --port {port}")
    try:
        jobs.wait_for("serve", lambda: _answers(f"http://127.0.0.1:{port}/v2/health/ready"))
        files = {kind: (pair_folder / "images" / kind / "test000.png").read_bytes() for kind in ("test", "golden")}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/models/pcb/inspect", files=files, timeout=60)
        assert answer.status_code == 200
        assert answer.json()["prediction"] in ("PASS", "FAIL")
    finally:
        stopped = jobs.ray("stop", "serve")
    assert stopped.returncode == 0, stopped.stderr
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/v2/health/live", timeout=5)


def test_a_sweep(jobs: Jobs, write_spec: Write, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "{trials: 1, algorithm: random, scheduler: none, space: {train.optim.lr: {uniform: [0.001, 0.01]}}}"
    )
    jobs.run(f"python -m ray_jobs tune -e {write_spec(train__num_epochs=1)} -s {sweep}")
    folder = tmp_path / "results" / "tune"
    assert (folder / "trials.csv").read_text().count("finished") == 1
    assert (folder / "best.yaml").exists()
    assert (folder / "report.html").exists()


def test_an_action_that_fails_is_a_job_that_failed(jobs: Jobs, write_spec: Write) -> None:
    spec = write_spec(evaluate__checkpoint="/nowhere.pth")
    failed = jobs.ray("submit", "--working-dir", ".", "--", *f"python -m ray_jobs evaluate -e {spec}".split())
    assert failed.returncode == 1
    assert "exit code 2" in failed.stdout + failed.stderr
    assert "error: evaluate.checkpoint: there is no /nowhere.pth" in failed.stdout
