"""The file of `changenet serve build` on a Ray, as `serve deploy` and KubeRay hand it over, and changed while it runs."""

import time
from pathlib import Path

import httpx
import pytest
import yaml

from ray_jobs import serve_build
from ray_jobs.listening import free_port


def test_the_built_file_serves_and_its_batches_change_without_a_new_replica_though_they_be_wrong(
    bundles, inspectors, pictures, local_ray, tmp_path: Path
):
    port = free_port()
    built = tmp_path / "service.yaml"
    assert serve_build.run(str(built), models=[f"pcb={bundles['pcb']}"], host="127.0.0.1", port=port) == 0
    content = yaml.safe_load(built.read_text())
    files = {"test": pictures[0], "golden": pictures[1]}
    expected = inspectors["pcb"].inspect(pictures[0], pictures[1]).score
    with local_ray(2):
        import ray
        from ray import serve
        from ray.serve._private.api import serve_start
        from ray.serve.schema import ServeDeploySchema

        client = serve_start(http_options=content["http_options"], proxy_location=content["proxy_location"])
        logs = Path(ray._private.worker._global_node.get_logs_dir_path(), "serve")

        def deployed() -> str:
            client.deploy_apps(ServeDeploySchema.model_validate(content), _blocking=True)
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/models/pcb/inspect", files=files, timeout=60)
            assert answer.json()["score"] == pytest.approx(expected, abs=1e-5)
            (log,) = logs.glob("replica_*.log")
            return log.read_text()

        assert "up to 3 pictures" not in deployed()
        for size, said in (3, "up to 3 pictures"), (4096, "user_config is refused"):
            content["applications"][0]["deployments"][0]["user_config"]["max_batch_size"] = size
            deadline = time.monotonic() + 180
            while said not in deployed():
                assert time.monotonic() < deadline
                time.sleep(1)
        time.sleep(3)  # in which a replica would be stopped
        assert "user_config is refused" in deployed(), "the same replica"
        serve.shutdown()
