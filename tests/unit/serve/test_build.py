"""`changenet serve build`, and the application that Ray Serve makes of its file."""

import pytest
import typer
import yaml
from ray._common.utils import import_attr
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner

from changenet.errors import SpecError
from ray_jobs import serve_build
from ray_jobs.cli import app
from ray_jobs.serve_settings import choose
from serve.app import Inspection, build
from serve.keys import add_key
from serve.settings import ServiceSettings

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
    elsewhere = {"replicas", "autoscaling", "encryption_key"}  # below `deployments`, and nowhere
    assert settings.model_dump(exclude=elsewhere) == chosen.model_dump(exclude=elsewhere)


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


def test_bundles_that_are_seen_from_here_are_verified_and_others_told(spec, tmp_path, caplog):
    (tmp_path / "empty").mkdir()
    models = f"[{{name: a, bundle: {tmp_path}/empty}}, {{name: b, bundle: /models/elsewhere}}]"
    with pytest.raises(SpecError, match="not a bundle"):
        serve_build.run(spec=str(spec), overrides=[f"serve.models={models}"])
    serve_build.run(str(tmp_path / "out.yaml"), models=["b=/models/elsewhere"])
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


def test_what_a_user_changed_is_not_lost(tmp_path):
    written = tmp_path / "serve.yaml"
    command = ["serve", "build", "--model", "a=/b", "--out", str(written)]
    assert CliRunner().invoke(app, command).exit_code == 0
    written.write_text("changed")
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 2 and "--overwrite" in ended.output and written.read_text() == "changed"
    assert CliRunner().invoke(app, [*command, "--overwrite"]).exit_code == 0
    assert written.read_text() != "changed"


def test_it_is_a_verb_of_its_own_with_its_own_options(spec):
    verbs = typer.main.get_command(app).commands
    build, serve = ({each.name for each in verbs[name].params} for name in ("serve build", "serve"))
    assert (build - serve, serve - build) == ({"out", "overwrite"}, {"address", "proxy", "key_env", "key_file"})
    explained = CliRunner().invoke(app, ["serve", "build", "--help"])
    assert explained.exit_code == 0 and "--out" in explained.stdout and "serve build [OPTIONS]" in explained.stdout
    listed = CliRunner().invoke(app, ["--help"]).stdout
    assert "serve build" in listed
    assert CliRunner().invoke(app, ["serve", "-e", str(spec), "build"]).exit_code == 2, "an override that is none"


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_a_file_for_other_machines_without_keys_is_warned_of(tmp_path, caplog, host, warned):
    serve_build.run(str(tmp_path / "out.yaml"), models=["a=/b"], host=host)
    assert ("without keys" in caplog.text) is warned


@pytest.mark.parametrize("keyless", [True, False])
def test_a_replica_says_once_in_its_log_that_it_asks_for_no_key(tmp_path, monkeypatch, caplog, keyless):
    monkeypatch.setattr("serve.loading.open_models", lambda *_: None)
    monkeypatch.setattr("serve.app._log_like_ray_serve", lambda: None)
    add_key(str(tmp_path / "keys.txt"), "line-3")
    given = {} if keyless else {"keys_file": str(tmp_path / "keys.txt")}
    Inspection(ServiceSettings(models=[{"name": "a", "bundle": "b"}], **given))
    assert caplog.text.count("No API keys") == keyless


def test_settings_reach_the_deployment():
    models = [{"name": "a", "bundle": "b"}]
    deployment = build(ServiceSettings(models=models, replicas=3, cpus=2))._bound_deployment
    assert (deployment.num_replicas, deployment.ray_actor_options["num_cpus"]) == (3, 2)
    scaled = ServiceSettings(models=models, autoscaling={"min_replicas": 0, "max_replicas": 9})
    config = build(scaled)._bound_deployment._deployment_config
    assert (config.autoscaling_config.min_replicas, config.autoscaling_config.max_replicas) == (0, 9)
    assert config.graceful_shutdown_timeout_s > scaled.limits.request_seconds == 60
    patient = ServiceSettings(models=models, request_timeout_s=600)
    config = build(patient)._bound_deployment._deployment_config
    assert config.graceful_shutdown_timeout_s > patient.of("a").limits.request_seconds == 600


@pytest.mark.parametrize(
    "models",
    [
        [],
        [{"name": "a", "bundle": "b", "replicas": 2, "autoscaling": {"max_replicas": 2}}],
        [{"name": "a", "bundle": "b"}, {"name": "a", "bundle": "c", "traffic": 0.5, "replicas": 2}],
        [{"name": ".", "bundle": "b"}],
        [{"name": "a", "bundle": "b", "gpus": 1}],
        [{"name": f"m{n}", "bundle": "b"} for n in range(5)],
    ],
)
def test_contradictions_in_a_file_written_by_hand_are_refused_too(models):
    refused = r"at least 1 item|both replicas|model that answers|URL|shares the replicas|no batch could fill"
    with pytest.raises(ValueError, match=refused):
        ServiceSettings(models=models, max_ongoing_requests=64)


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
        ("serve.models=[{name: a, bundle: b, max_replicas_per_node: 1}]", "serve.models"),
        ("serve.models=[{name: a, bundle: b}, {name: a, bundle: c, traffic: 0.5, resources: {x: 1}}]", "serve.models"),
        ("serve.gpus=2", "serve.gpus"),
        ("serve.models=[{name: a, bundle: b, autoscaling: {min_replicas: 3, max_replicas: 2}}]", "serve.models"),
    ],
)
def test_contradictions_are_told_before_ray_starts(spec, change, key):
    with pytest.raises(SpecError) as caught:
        choose(spec=str(spec), overrides=[change])
    assert any(key in problem.where for problem in caught.value.problems), caught.value
