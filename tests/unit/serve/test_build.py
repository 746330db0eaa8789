"""`changenet serve build`, and what the scaling settings do to a load."""

from types import SimpleNamespace

import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.autoscaling_policy import _apply_scaling_factors, _core_replica_queue_length_policy
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner

from changenet.errors import SpecError
from ray_jobs import serve_build
from ray_jobs.cli import app
from ray_jobs.serve_settings import choose
from serve.app import build
from serve.deployments import scaling
from serve.settings import Autoscaling, ServiceSettings

SPEC = """
results_dir: {folder}
encryption_key: secret words
serve:
  port: 8123
  goldens_dir: /shared/goldens
  max_batch_size: 8
  cpus: 4
  autoscaling: {{min_replicas: 2, max_replicas: 5, target_ongoing_requests: 16}}
  models:
    - {{name: pcb, bundle: /models/pcb}}
    - {{name: pcb, bundle: /models/next, traffic: 0.1}}
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.format(folder=tmp_path))
    return path


def test_ray_accepts_the_file_and_builds_the_same_service_of_it(spec, tmp_path):
    written = tmp_path / "serve.yaml"
    command = ["serve", "build", "-e", str(spec), "--out", str(written), "serve.batch_wait_timeout_s=0.01"]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.output
    assert "secret words" not in written.read_text()
    config = ServeDeploySchema.model_validate(yaml.safe_load(written.read_text()))
    assert config.http_options.port == 8123 and config.http_options.host == "127.0.0.1"
    (described,) = config.applications
    (deployment,) = described.deployments
    assert deployment.user_config == {"max_batch_size": 8, "batch_wait_timeout_s": 0.01}
    assert (deployment.autoscaling_config["max_replicas"], deployment.ray_actor_options.num_cpus) == (5, 4)
    built = call_user_app_builder_with_args_if_necessary(import_attr(described.import_path), described.args)
    settings, own = built._bound_deployment.init_args
    assert own == {}
    chosen = choose(spec=str(spec), overrides=["serve.batch_wait_timeout_s=0.01"]).settings
    same = ("models", "limits", "batching", "goldens_dir", "golden_cache_bytes", "cpus")
    assert [getattr(settings, name) for name in same] == [getattr(chosen, name) for name in same]


OWN = """[
  {name: pcb, bundle: /models/pcb, replicas: 3},
  {name: pcb, bundle: /models/next, traffic: 0.1},
  {name: rare, bundle: /models/rare, autoscaling: {min_replicas: 0, max_replicas: 4, target_ongoing_requests: 2}},
  {name: a, bundle: /models/a}, {name: b, bundle: /models/b}]"""


def test_models_with_replicas_of_their_own_are_deployments_of_their_own(spec, tmp_path):
    written = tmp_path / "serve.yaml"
    ended = CliRunner().invoke(app, ["serve", "build", "-e", str(spec), "--out", str(written), f"serve.models={OWN}"])
    assert ended.exit_code == 0, ended.output
    (described,) = ServeDeploySchema.model_validate(yaml.safe_load(written.read_text())).applications
    together, pcb, rare = described.deployments
    assert [each.name for each in described.deployments] == ["inspection", "inspection-pcb", "inspection-rare"]
    assert together.autoscaling_config["min_replicas"] == 2, "the service's own"
    assert pcb.num_replicas == 3 and "autoscaling_config" not in pcb.model_dump(exclude_unset=True)
    assert (rare.autoscaling_config["min_replicas"], rare.autoscaling_config["max_replicas"]) == (0, 4)
    for each in described.deployments:
        assert each.user_config["max_batch_size"] == 8 and each.ray_actor_options.num_cpus == 4
    built = call_user_app_builder_with_args_if_necessary(import_attr(described.import_path), described.args)
    settings, own = built._bound_deployment.init_args
    assert settings.together == ("a", "b") and list(own) == ["pcb", "rare"]
    (told,) = own["pcb"]._bound_deployment.init_args
    assert [(each.bundle, each.traffic) for each in told.models] == [("/models/pcb", 1.0), ("/models/next", 0.1)]
    assert told.together == ("pcb",) and told.goldens_dir == settings.goldens_dir
    for name, each in own.items():
        code = each._bound_deployment
        assert code.name == f"inspection-{name}" and code.user_config == together.user_config
    assert own["pcb"]._bound_deployment.num_replicas == 3
    assert own["rare"]._bound_deployment._deployment_config.autoscaling_config.min_replicas == 0


def test_replicas_that_only_pass_on_reserve_next_to_nothing():
    settings = ServiceSettings(models=[{"name": "a", "bundle": "b", "replicas": 1}], cpus=4)
    assert 0 < scaling(settings)["ray_actor_options"]["num_cpus"] < 1
    assert scaling(settings, "a")["ray_actor_options"]["num_cpus"] == 4


def test_bundles_that_are_seen_from_here_are_verified_and_others_told(spec, tmp_path, caplog):
    (tmp_path / "empty").mkdir()
    models = f"[{{name: a, bundle: {tmp_path}/empty}}, {{name: b, bundle: /models/elsewhere}}]"
    with pytest.raises(SpecError, match="not a bundle"):
        serve_build.run({"spec": str(spec), "overrides": [f"serve.models={models}"]}, None)
    serve_build.run({"models": ["b=/models/elsewhere"]}, str(tmp_path / "out.yaml"))
    assert "/models/elsewhere" in caplog.text and "Not verified" in caplog.text


def test_more_models_raise_what_a_replica_holds_unless_it_is_written(spec):
    models = ", ".join(f"{{name: m{n}, bundle: b}}" for n in range(9))
    given = {"spec": str(spec), "overrides": [f"serve.models=[{models}]"]}
    chosen = choose(**given)
    assert chosen.settings.limits.inspections == 72
    assert ServiceSettings(**serve_build.config(chosen)["applications"][0]["args"]).limits == chosen.settings.limits
    with pytest.raises(SpecError) as caught:
        choose(**{**given, "overrides": [*given["overrides"], "serve.max_ongoing_requests=71"]})
    assert "9 models" in str(caught.value) and "72" in str(caught.value)


def test_without_a_file_it_is_printed(spec):
    ended = CliRunner().invoke(app, ["serve", "build", "--model", "a=/b"])
    assert yaml.safe_load(ended.stdout)["applications"][0]["args"]["models"] == [{"bundle": "/b", "name": "a"}]


def test_settings_reach_the_deployment():
    models = [{"name": "a", "bundle": "b"}]
    deployment = build(ServiceSettings(models=models, replicas=3, cpus=2))._bound_deployment
    assert (deployment.num_replicas, deployment.ray_actor_options["num_cpus"]) == (3, 2)
    scaled = ServiceSettings(models=models, autoscaling=Autoscaling(min_replicas=0, max_replicas=9))
    config = build(scaled)._bound_deployment._deployment_config
    assert (config.autoscaling_config.min_replicas, config.autoscaling_config.max_replicas) == (0, 9)
    assert config.graceful_shutdown_timeout_s > scaled.limits.request_seconds


@pytest.mark.parametrize(
    ("ongoing", "running", "wanted"),
    [(0, 1, 1), (8, 1, 1), (30, 1, 4), (1000, 4, 6), (16, 4, 2), (0, 6, 1)],
)
def test_replicas_follow_the_load(ongoing, running, wanted):
    scaling = Autoscaling(min_replicas=1, max_replicas=6, target_ongoing_requests=8)
    config = AutoscalingConfig(**scaling.model_dump())
    now = SimpleNamespace(
        config=config, current_num_replicas=running, target_num_replicas=running, total_num_requests=ongoing
    )
    desired, _ = _core_replica_queue_length_policy(now)
    replicas = _apply_scaling_factors(desired, running, config)
    assert min(max(replicas, scaling.min_replicas), scaling.max_replicas) == wanted


@pytest.mark.parametrize(
    "models",
    [
        [{"name": "a", "bundle": "b", "replicas": 2, "autoscaling": {}}],
        [{"name": "a", "bundle": "b"}, {"name": "a", "bundle": "c", "traffic": 0.5, "replicas": 2}],
        [{"name": ".", "bundle": "b"}],
        [{"name": f"m{n}", "bundle": "b"} for n in range(5)],
    ],
)
def test_contradictions_in_a_file_written_by_hand_are_refused_too(models):
    with pytest.raises(ValueError, match=r"both replicas|of the one that answers|URL|a batch of every model"):
        ServiceSettings(models=models)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("serve.autoscaling.max_replicas=1", "serve.autoscaling.max_replicas"),
        ("serve.models=[{name: a, bundle: b}, {name: a, bundle: c}]", "serve.models"),
        ("serve.models=[{name: a, bundle: b, traffic: 0.5}]", "serve.models"),
        ("serve.models=[{name: '..', bundle: b}]", "serve.models"),
        ("serve.models=[{name: a, bundle: b}, {name: a, bundle: c, traffic: 0.5, replicas: 2}]", "serve.models"),
        ("serve.models=[{name: a, bundle: b, replicas: 2, autoscaling: {max_replicas: 3}}]", "serve.models"),
        ("serve.models=[{name: a, bundle: b, autoscaling: {min_replicas: 0}}]", "serve.models"),
        ("serve.models=[{name: a, bundle: b, autoscaling: {min_replicas: 3, max_replicas: 2}}]", "serve.models"),
    ],
)
def test_contradictions_are_told_before_ray_starts(spec, change, key):
    with pytest.raises(SpecError) as caught:
        choose(spec=str(spec), overrides=[change])
    assert any(key in problem.where for problem in caught.value.problems), caught.value
