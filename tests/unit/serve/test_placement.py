"""Where replicas go and what each reserves there: the options of the deployments, and the device of the engines."""

import pytest
from ray.serve.schema import ServeDeploySchema

from changenet.errors import EngineError
from changenet.inspection import Inspector
from ray_jobs import serve_build
from ray_jobs.serve_settings import choose
from serve.app import build
from serve.deployments import scaling
from serve.loading import open_models
from serve.metrics import Metrics
from serve.settings import ServiceSettings

SPEC = """
results_dir: {folder}
serve:
  cpus: 4
  gpus: 0.25
  resources: {{line_3: 0.01}}
  max_replicas_per_node: 2
  models:
    - {{name: shared, bundle: /a}}
    - {{name: own, bundle: /b, replicas: 2, gpus: 1, cpus: 2, max_replicas_per_node: 1}}
    - {{name: small, bundle: /c, replicas: 1, gpus: 0, resources: {{}}}}
"""


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "spec.yaml").write_text(SPEC.format(folder=tmp_path))
    return choose(spec=str(tmp_path / "spec.yaml"))


def test_each_deployment_reserves_what_it_says_and_otherwise_what_the_service_says(settings):
    told = settings.settings
    line = {"line_3": 0.01}
    assert [scaling(told, name) for name in (None, "own", "small")] == [
        {
            "num_replicas": 1,
            "ray_actor_options": {"num_cpus": 4, "num_gpus": 0.25, "resources": line},
            "max_replicas_per_node": 2,
        },
        {
            "num_replicas": 2,
            "ray_actor_options": {"num_cpus": 2, "num_gpus": 1, "resources": line},
            "max_replicas_per_node": 1,
        },
        {"num_replicas": 1, "ray_actor_options": {"num_cpus": 4}, "max_replicas_per_node": 2},
    ]


def test_ray_serve_takes_them_from_the_application_and_from_a_config_file(settings):
    ingress = build(settings.settings)._bound_deployment
    _, own = ingress.init_args
    for deployment, wanted in ((ingress, 0.25), (own["own"]._bound_deployment, 1)):
        assert deployment.ray_actor_options["num_gpus"] == wanted
    assert own["own"]._bound_deployment._replica_config.max_replicas_per_node == 1
    (described,) = ServeDeploySchema(**serve_build.config(settings)).applications
    assert [each.ray_actor_options.num_gpus for each in described.deployments] == [0.25, 1, None]
    assert [each.max_replicas_per_node for each in described.deployments] == [2, 1, 2]


def test_replicas_that_only_pass_on_reserve_next_to_nothing():
    settings = ServiceSettings(models=[{"name": "a", "bundle": "b", "replicas": 1}], cpus=4, gpus=1)
    assert 0 < scaling(settings)["ray_actor_options"]["num_cpus"] < 1
    assert "num_gpus" not in scaling(settings)["ray_actor_options"]
    assert scaling(settings, "a")["ray_actor_options"] == {"num_cpus": 4, "num_gpus": 1}


@pytest.mark.parametrize(("name", "threads", "device"), [("shared", 4, "cuda"), ("own", 2, "cuda"), ("small", 4, None)])
def test_engines_run_where_their_replica_has_a_gpu(settings, monkeypatch, name, threads, device):
    asked = {}

    def load(*_, **given):
        asked.update(given)
        raise EngineError("seen")

    monkeypatch.setattr(Inspector, "load", load)
    told = settings.settings if name == "shared" else settings.settings.of(name)
    with pytest.raises(EngineError, match="seen"):
        open_models(told.model_copy(update={"goldens_dir": None}), Metrics(), [name])
    assert (asked["threads"], asked["device"]) == (threads, device)
