"""What `changenet serve` says at the terminal, and how it hears that it should stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

from changenet.errors import DataError
from ray_jobs.console import out
from serve.form import part_name
from serve.loading import wanted_state
from serve.model_state import StateFiles
from serve.problems import HttpError
from serve.settings import ServiceSettings


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], None]]:
    """Give what waits for SIGINT or SIGTERM; one that comes before interrupts the start, which then leaves nothing behind."""
    told = threading.Event()
    waiting = False

    def hear(*_: object) -> None:
        if not waiting:
            raise KeyboardInterrupt
        told.set()

    def wait() -> None:
        nonlocal waiting
        waiting = True
        told.wait()
        out.print("Stopping.")
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    previous = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wait
    finally:
        restore()


def announce(url: str, settings: ServiceSettings, lights: Sequence[str]) -> None:
    """Print where the service answers, and how to ask it.

    Args:
        url: Of the service.
        settings: Its own.
        lights: Of the first model's pictures.
    """
    name = settings.models[0].name
    parts = " ".join(
        f"-F {part_name(role, light)}=@{role}{'_' if light else ''}{light}.png"
        for role in ("test", "golden")
        for light in lights
    )
    names = ", ".join(dict.fromkeys(model.name for model in settings.models))
    key = '-H "Authorization: Bearer $KEY" ' if settings.keys_file else ""
    for line in (
        f"Serving {names} on {url}",
        *_swapped(settings),
        f"  page     {url}/",
        *_metrics(),
        f"  example  curl {key}{parts} {url}/v1/models/{name}/inspect",
        "  stop     Ctrl-C",
    ):
        out.print(line, soft_wrap=True)


def _metrics() -> Iterator[str]:
    """Yield a line that says where Prometheus finds the metrics of a node: the only one of a Ray that was started here."""
    import ray

    here = next((node for node in ray.nodes() if node["Alive"] and node.get("MetricsExportPort")), None)
    if here is not None:
        yield f"  metrics  http://{here['NodeManagerAddress']}:{here['MetricsExportPort']}/metrics"


def _swapped(settings: ServiceSettings) -> Iterator[str]:
    """Yield a line a model that an earlier swap left with another bundle than the configured one."""
    if settings.goldens_dir is None:
        return
    for name in dict.fromkeys(model.name for model in settings.models):
        with contextlib.suppress(DataError, HttpError):  # a folder that only the replicas see
            state, configured = wanted_state(name, settings.of(name).models, StateFiles(settings.goldens_dir))
            if state.active.bundle != configured.bundle:
                yield f"  swapped  {name} is {state.active.bundle} since a swap, not {configured.bundle}; rollback returns"
