"""One local Ray for the tests of a module: `CPUS = n` in the module sizes it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from ray_jobs import cluster


@pytest.fixture(scope="session")
def hears_ctrl_c() -> Callable[[], object]:
    """For `preexec_fn`: a process inherits deafness to SIGINT from a test run that was started in the background."""
    return lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def deaf_to_ctrl_c() -> Callable[[], object]:
    """For `preexec_fn`: what a script starts in the background is deaf to SIGINT."""
    return lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture(scope="module")
def local_ray(request: pytest.FixtureRequest) -> Iterator[None]:
    # Without a mode Ray may write a token into the home folder.
    environment = {**cluster.ENVIRONMENT, "RAY_AUTH_MODE": "disabled"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        import ray

        cpus = getattr(request.module, "CPUS", 2)
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()
