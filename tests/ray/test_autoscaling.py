"""A cluster that has a head without CPUs, and nodes only while there is work for them."""

from __future__ import annotations

import csv
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ray import cluster_utils

from changenet.spec.workers import RayWorkers
from ray_jobs import cluster
from ray_jobs.listening import free_port
from ray_jobs.workers import plan_workers

HOST = "127.0.0.4"
PATIENCE = 300.0  # seconds; other tests run beside these
STORE = 100 << 20  # bytes
pytestmark = pytest.mark.slow


class GrowingCluster(cluster_utils.AutoscalingCluster):
    """Ray's own, with the basic settings that its wheel lacks."""

    def _generate_config(self, head_resources: Any, worker_node_types: Any, **settings: Any) -> dict[str, Any]:
        head = {"resources": head_resources, "node_config": {}, "max_workers": 0}
        steps = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
        return {
            **{f"{step}_commands": [] for step in steps},
            "file_mounts": {},
            "cluster_synced_files": [],
            "cluster_name": "growing",
            "max_workers": 3,
            "provider": {
                "type": "external",  # under its own name Ray looks for a file that its wheel lacks
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "gcs_address": settings["gcs_address"],
                "head_node_id": cluster_utils.FAKE_HEAD_NODE_ID,
                "launch_multiple": True,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "available_node_types": {**worker_node_types, "ray.head.default": head},
            "head_node_type": "ray.head.default",
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 0.1,
            "auth": {},
        }


class Starter:
    """What starts and ends the processes of a `GrowingCluster`.

    Ray's own ends every Ray on the machine (`ray stop --force`) before and after; this one ends what it has started.
    """

    def __init__(self, *options: str, folder: Path) -> None:
        self._options, self._folder = options, folder
        self.head: subprocess.Popen[bytes] | None = None

    def check_call(self, command: list[str], env: dict[str, str] | None = None) -> None:
        """Start the head, or do nothing."""
        if command[1] == "stop":
            return
        with (self._folder / "log").open("wb") as log:
            ray = str(Path(sys.executable).with_name("ray"))
            line = [ray, *command[1:], "--block", f"--temp-dir={self._folder}/ray", *self._options]
            self.head = subprocess.Popen(line, env=env, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        while not (self._folder / "ray" / "ray_current_cluster").exists():  # written last
            assert self.head.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def stop(self) -> None:
        """End the head, and the nodes that its autoscaler has started."""
        assert self.head is not None
        os.killpg(self.head.pid, signal.SIGKILL)
        self.head.wait()


@pytest.fixture(scope="module")
def growing() -> Iterator[str]:
    """The address of a head without CPUs; two nodes with a CPU and one with a GPU can come."""
    import ray

    port = free_port(HOST)
    address = f"{HOST}:{port}"
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="r"))  # sockets want a short path
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        starter = Starter(
            f"--node-ip-address={HOST}",
            f"--port={port}",
            f"--dashboard-agent-listen-port={free_port(HOST)}",
            f"--ray-client-server-port={free_port(HOST)}",
            "--include-dashboard=false",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--memory=0",  # what drives a trial takes a byte, so that all of them are on nodes that come and go
            folder=folder,
        )
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(cluster_utils, "subprocess", starter)
        kinds = {
            "cpu": {"resources": {"CPU": 1, "object_store_memory": STORE}, "node_config": {}, "max_workers": 2},
            "gpu": {
                "resources": {"CPU": 1, "GPU": 1, "object_store_memory": STORE},
                "node_config": {},
                "max_workers": 1,
            },
        }
        grown = GrowingCluster({"CPU": 0, "object_store_memory": STORE}, kinds, autoscaler_v2=True, gcs_address=address)
        stack.callback(lambda: starter.head and starter.stop())
        grown.start(override_env={**cluster.ENVIRONMENT, "RAY_AUTH_MODE": "disabled"})
        cluster.connect(address)
        stack.callback(ray.shutdown)
        yield address


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, cluster.nodes()
        time.sleep(0.5)


def test_the_demand_of_a_sweep_adds_nodes_and_idleness_removes_them(
    growing: str, write_spec: Callable[..., str], tmp_path: Path
) -> None:
    assert cluster.nodes() == [(0.0, 0.0)]
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "{trials: 2, max_concurrent_trials: 2, algorithm: random, scheduler: none,"
        " space: {train.optim.lr: {uniform: [0.001, 0.01]}}}"
    )
    spec = write_spec(train__num_epochs=1, train__ray={"use_gpu": False, "resources_per_worker": {"CPU": 1}})
    command = [sys.executable, "-m", "ray_jobs", "tune", "-e", spec, "-s", str(sweep), "--address", growing]
    most = 0
    deadline = time.monotonic() + PATIENCE
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process,
    ):
        try:
            while process.poll() is None:
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                most = max(most, len(cluster.nodes()))
                time.sleep(0.2)
        finally:
            process.kill()
    assert process.returncode == 0, (tmp_path / "log").read_text()
    with (tmp_path / "results" / "tune" / "trials.csv").open(encoding="utf-8") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["finished"] * 2
    assert most == 3, "a node for each of two trials"
    _wait_until(lambda: cluster.nodes() == [(0.0, 0.0)])


def test_gpus_that_were_asked_for_outright_come_and_those_that_cannot_are_not_waited_for(
    growing: str, caplog: pytest.LogCaptureFixture
) -> None:
    never = RayWorkers(num_workers=2, use_gpu=True)  # there is one
    with caplog.at_level(logging.WARNING):
        assert not plan_workers(never, asked_gpus=1).use_gpu
    assert "there are none" in caplog.text
    workers = plan_workers(RayWorkers(use_gpu=True), asked_gpus=1)
    assert (workers.use_gpu, workers.count, workers.cpus) == (True, (1, 1), 1)
    assert (1.0, 1.0) in cluster.nodes()
    _wait_until(lambda: cluster.nodes() == [(0.0, 0.0)])
