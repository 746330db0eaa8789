"""What serving.py asks: our service, LitServe, and the one process that all requests come from."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from serving_client import Call, Load, Sample, drive, form

MODEL = "boards"
PATIENCE = 600  # seconds: 32 boards at once are minutes of work for these CPUs


class Clients(ProcessPoolExecutor):
    """The one process that all requests come from."""

    def __init__(self) -> None:
        super().__init__(1, mp_context=multiprocessing.get_context("spawn"))

    def drive(
        self, url: str, calls: Sequence[Call], concurrency: int, *, requests: int = 0, seconds: float = 0
    ) -> Load:
        """See `serving_client.drive`."""
        return self.submit(drive, url, calls, concurrency, requests=requests, seconds=seconds).result()


@contextmanager
def service(
    bundle: str,
    samples: Sequence[Sample],
    *,
    threads: int,
    replicas: int = 1,
    proxy: str = "auto",
    alone: bool = False,
) -> Iterator[str]:
    """Run the service with the goldens of the samples registered, on a Ray of its own, and give its URL.

    With `alone` the model has a replica of its own, and that of the service passes requests on.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    from ray_jobs.listening import free_port
    from ray_jobs.serve import start
    from serve.settings import ModelSettings, ServiceSettings

    models = (ModelSettings(name=MODEL, bundle=bundle, replicas=1 if alone else None),)
    with tempfile.TemporaryDirectory() as folder:
        settings = ServiceSettings(
            models=models, goldens_dir=folder, cpus=threads, replicas=replicas, request_timeout_s=PATIENCE
        )
        with start(settings, port=free_port(), proxy=proxy) as running:
            goldens = {each.golden_id: form([("golden", each.golden, True)]) for each in samples}
            base = f"/v1/models/{MODEL}/goldens"
            calls = [Call(f"{base}/{name}", body, method="PUT") for name, body in goldens.items()]
            registered = drive(running.url, calls, 1, requests=len(calls))
            assert set(registered.statuses) == {201}, registered.statuses
            yield running.url


@contextmanager
def peer(bundle: str, samples: Sequence[Sample], threads: int) -> Iterator[str]:
    """Run LitServe and give its URL."""
    from ray_jobs.listening import free_port

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as goldens:
        for sample in samples:
            Path(goldens, sample.golden_id).write_bytes(sample.golden)
        script = Path(__file__).with_name("serving_peer.py")
        command = [sys.executable, str(script), bundle, goldens, str(port), str(threads)]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            try:
                wait_for(f"{url}/health")
                yield url
            finally:
                os.killpg(process.pid, 15)


def wait_for(url: str) -> None:
    """Wait until a URL is answered with 200."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(url)
