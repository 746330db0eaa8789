"""One local Ray for the tests of a module: `CPUS = n` in the module sizes it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_jobs import cluster


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
