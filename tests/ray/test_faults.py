"""Training on a cluster of several nodes that loses workers, nodes and drivers, shrinks and grows."""

from __future__ import annotations

import csv
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.cluster_utils import Cluster

from changenet.training.checkpoint import load_checkpoint
from ray_jobs.checkpoint_files import LATEST
from ray_jobs.cluster import ENVIRONMENT

Spec = Callable[..., str]
pytestmark = pytest.mark.slow
EPOCHS, STEPS = 14, 3  # of a run, of an epoch
PATIENCE = 540  # seconds; other tests run beside these
TWO = {"num_workers": 2, "resources_per_worker": {"CPU": 1}, "max_failures": 3}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A head without CPUs and three nodes of one CPU."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            **ENVIRONMENT,
            "RAY_AUTH_MODE": "disabled",
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        }.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(3):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster
        cluster.shutdown()


class Run:
    """`changenet train` in a process of its own, as a user starts it."""

    def __init__(self, spec: str, address: str, log: Path, prepare: Callable[[], object]) -> None:
        self.log = log
        with log.open("wb") as file:
            command = [sys.executable, "-m", "ray_jobs", "train", "-e", spec, "--address", address]
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, preexec_fn=prepare)

    def text(self) -> str:
        return " ".join(self.log.read_text(encoding="utf-8", errors="replace").split())

    def wait_for(self, sign: Callable[[], Any]) -> Any:
        """Wait until `sign` gives something, and return it."""
        deadline = time.monotonic() + PATIENCE
        while not (found := sign()):
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.1)
        return found

    def starts(self) -> list[tuple[int, int]]:
        """Return the number of workers, and the step that they began at, of every start of the workers."""
        found = re.findall(r"(One|\d+) workers? (?:trains|share each batch), from epoch \d+, step (\d+)", self.text())
        return [(1 if count == "One" else int(count), int(step)) for count, step in found]

    def end(self) -> None:
        assert self.process.wait(PATIENCE) == 0, self.text()


@pytest.fixture
def start(nodes: Cluster, tmp_path: Path, hears_ctrl_c: Callable[[], object]) -> Iterator[Callable[[str], Run]]:
    """Starts runs, and ends those that a failed test leaves."""
    runs: list[Run] = []

    def begin(spec: str) -> Run:
        runs.append(Run(spec, nodes.address, tmp_path / f"run{len(runs)}.log", hears_ctrl_c))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.wait()


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    """The weights of a run that nothing happened to; the first test that needs them makes them."""
    return {}


def _epochs(folder: Path) -> list[int]:
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def _children(pid: int) -> list[Any]:
    import psutil  # Ray brings it, for whoever imports Ray first

    found: list[Any] = psutil.Process(pid).children(recursive=True)
    return found


def _worker_of(node: Any) -> Any:
    """Return the process of a training worker on a node, or None."""
    (raylet,) = node.all_processes["raylet"]
    for child in _children(raylet.process.pid):
        if "TrainWorker" in " ".join(child.cmdline()):
            return child
    return None


def _newest(run: Run) -> int:
    """Return how many workers the latest start had; 0 before the first."""
    return run.starts()[-1][0] if run.starts() else 0


def _is_whole(folder: Path, undisturbed: Path) -> None:
    """Compare the end of a run with that of one that nothing happened to: all epochs once, and the same network."""
    assert _epochs(folder) == list(range(EPOCHS))
    end, expected = load_checkpoint(str(folder / LATEST)), load_checkpoint(str(undisturbed / LATEST))
    assert end.training["progress"]["step"] == EPOCHS * STEPS
    for name, tensor in expected.state.items():
        torch.testing.assert_close(
            end.state[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.fixture
def reference(
    write_spec: Spec, start: Callable[[str], Run], tmp_path_factory: pytest.TempPathFactory, undisturbed: dict[str, Any]
) -> Path:
    """RESULTS/train of a run that nothing happened to."""
    if not undisturbed:
        results = tmp_path_factory.mktemp("undisturbed")
        start(write_spec(results_dir=str(results), train__num_epochs=EPOCHS, train__ray=TWO)).end()
        undisturbed["folder"] = results / "train"
    folder: Path = undisturbed["folder"]
    assert _epochs(folder) == list(range(EPOCHS))
    return folder


def test_a_worker_and_then_the_driver_are_killed(
    nodes: Cluster, start: Callable[[str], Run], write_spec: Spec, tmp_path: Path, reference: Path
) -> None:
    folder = tmp_path / "results" / "train"
    spec = write_spec(train__num_epochs=EPOCHS, train__ray=TWO)
    run = start(spec)
    run.wait_for(lambda: len(_epochs(folder)) > 2)
    victim = next(filter(None, map(_worker_of, nodes.worker_nodes)))
    victim.kill()
    (_, first), (count, again) = run.wait_for(lambda: starts if len(starts := run.starts()) > 1 else None)
    assert first == 0
    assert count == 2
    assert again >= 2 * STEPS, "at most what came after the last checkpoint that was reported is repeated"
    done = len(_epochs(folder))
    run.wait_for(lambda: len(_epochs(folder)) > done)
    run.process.kill()
    run.process.wait()
    last = start(spec)
    last.end()
    ((_, again),) = last.starts()
    assert again >= done * STEPS
    _is_whole(folder, reference)


def test_a_node_goes_after_a_notice(
    nodes: Cluster, start: Callable[[str], Run], write_spec: Spec, tmp_path: Path, reference: Path
) -> None:
    folder = tmp_path / "results" / "train"
    spec = write_spec(train__num_epochs=EPOCHS, train__ray=TWO, train__checkpoint_interval=EPOCHS)
    run = start(spec)
    run.wait_for(lambda: _epochs(folder))
    assert not (folder / LATEST).exists(), "none is due"
    node = next(node for node in nodes.worker_nodes if _worker_of(node))
    ray = str(Path(sys.executable).with_name("ray"))
    reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken away")
    subprocess.run(
        [
            ray,
            "drain-node",
            "--address",
            nodes.address,
            "--node-id",
            node.node_id,
            *reason,
            "--deadline-remaining-seconds",
            "60",
        ],
        check=True,
        capture_output=True,
    )
    run.wait_for((folder / LATEST).exists)
    noticed = load_checkpoint(str(folder / LATEST)).training["progress"]["step"]
    nodes.remove_node(node, allow_graceful=False)
    run.end()
    nodes.add_node(num_cpus=1)
    assert "about to be taken away" in run.text()
    *_, (count, again) = run.starts()
    assert count == 2
    assert again >= noticed, "no step before the notice is repeated"
    _is_whole(folder, reference)


def test_a_run_shrinks_and_grows_with_the_cluster(
    nodes: Cluster, start: Callable[[str], Run], write_spec: Spec, tmp_path: Path
) -> None:
    folder = tmp_path / "results" / "train"
    elastic = {**TWO, "num_workers": [1, 2]}
    nodes.remove_node(nodes.worker_nodes.copy().pop(), allow_graceful=False)
    run = start(write_spec(train__num_epochs=100_000, train__ray=elastic))
    # Ray starts with the room that it sees at once, so it may begin with one worker and find the second a minute later.
    run.wait_for(lambda: _newest(run) == 2)
    nodes.remove_node(next(node for node in nodes.worker_nodes if _worker_of(node)), allow_graceful=False)
    run.wait_for(lambda: _newest(run) == 1)
    nodes.add_node(num_cpus=1)
    run.wait_for(lambda: _newest(run) == 2)
    run.wait_for(lambda: len(_epochs(folder)) * STEPS > run.starts()[-1][1])
    steps = [step for _, step in run.starts()]
    assert steps == sorted(steps), "each start goes on from where the one before was"
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(PATIENCE) == 1
    done = load_checkpoint(str(folder / LATEST)).training["progress"]["epoch"]
    assert _epochs(folder)[:done] == list(range(done))
    start(write_spec(train__num_epochs=done + 1, train__ray=elastic)).end()
    assert _epochs(folder) == list(range(done + 1))


def test_results_that_a_node_does_not_see_are_refused(
    nodes: Cluster, start: Callable[[str], Run], write_spec: Spec, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    ray = Path(sys.executable).with_name("ray")
    resources = """--num-cpus 1 --resources '{"lonely": 1}'"""
    join = f"mount -t tmpfs none {results} && exec {ray} start --address {nodes.address} {resources} --block"
    alone = ["unshare", "-m", "mount", "-t", "tmpfs", "none", str(results)]
    if not shutil.which("unshare") or subprocess.run(alone, capture_output=True, check=False).returncode:
        pytest.skip("no file system of its own for a node here")
    # The first run begins before that node is there, and waits for it; the second finds it when it starts.
    early = start(write_spec(train__ray={"resources_per_worker": {"CPU": 1, "lonely": 1}}))
    early.wait_for(lambda: "for nodes to join: 1 x {'lonely': 1" in early.text())
    lonely = subprocess.Popen(["unshare", "-m", "sh", "-c", join], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        for begin in (lambda: early, lambda: start(write_spec(train__ray=TWO))):
            run = begin()
            assert run.process.wait(PATIENCE) == 2, run.text()
            assert lonely.poll() is None
            assert f"{results / 'train'} is not seen by" in run.text()
            assert "Use a place that all nodes mount" in run.text()
            assert "Traceback" not in run.text()
    finally:
        for process in [*_children(lonely.pid), lonely]:
            process.kill()
        lonely.wait()
