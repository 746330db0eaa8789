"""The Kubernetes manifests: against KubeRay's and Kubernetes' schemas, and the things that no schema knows."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

MANIFESTS = ("cluster", "train", "tune", "nightly", "serve", "storage", "network-policy")
RAY_KINDS = ("cluster", "train", "tune", "nightly", "serve")
SCHEMAS = Path(__file__).parent / "schemas"


def manifest(folder: Path, name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((folder / "kuberay" / f"{name}.yaml").read_text(encoding="utf-8")))


def validator(kind: str) -> jsonschema.Draft202012Validator:
    for name in ("kuberay", "kubernetes"):
        schemas = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
        if kind in schemas:
            return jsonschema.Draft202012Validator({**schemas[kind], "$defs": schemas["$defs"]})
    raise AssertionError(f"no schema for {kind}")


def job(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]
    return spec["jobTemplate"] if document["kind"] == "RayCronJob" else spec


def cluster(document: dict[str, Any]) -> dict[str, Any]:
    """Return the RayCluster that a document describes or contains."""
    spec = job(document)
    inner: dict[str, Any] = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return inner


def groups(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield cluster(document)["headGroupSpec"]
    yield from cluster(document)["workerGroupSpecs"]


def pods(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each pod's spec with its one container."""
    for group in groups(document):
        pod = group["template"]["spec"]
        assert len(pod["containers"]) == 1
        yield pod, pod["containers"][0]


def test_every_manifest_is_checked(cluster_folder: Path) -> None:
    assert {path.stem for path in (cluster_folder / "kuberay").iterdir()} == set(MANIFESTS)


@pytest.mark.parametrize("name", MANIFESTS)
def test_it_fits_its_schema(cluster_folder: Path, name: str) -> None:
    for document in manifest(cluster_folder, name):
        problems = [
            f"{error.json_path}: {error.message}"
            for part, kind in ((document, document["kind"]), (document["metadata"], "ObjectMeta"))
            for error in validator(kind).iter_errors(part)
        ]
        assert problems == []
        assert document["metadata"]["namespace"] == "changenet"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("cluster", ()),
        ("cluster", ("spec", "autoscalerOptions")),
        ("train", ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0)),
        ("nightly", ("spec", "jobTemplate", "rayClusterSpec", "headGroupSpec", "template", "spec", "securityContext")),
        ("serve", ("spec", "rayClusterConfig", "workerGroupSpecs", 0)),
        ("storage", ("spec", "resources")),
        ("network-policy", ("spec", "ingress", 0, "from", 0)),
    ],
)
def test_an_unknown_field_would_be_refused(cluster_folder: Path, name: str, path: tuple[str | int, ...]) -> None:
    document = copy.deepcopy(manifest(cluster_folder, name)[0])
    place: Any = document
    for step in path:
        place = place[step]
    place["readinesProbe"] = {}
    assert not validator(document["kind"]).is_valid(document)


@pytest.mark.parametrize("name", RAY_KINDS)
def test_every_pod_is_safe_and_asked_for_its_health(cluster_folder: Path, name: str) -> None:
    (document,) = manifest(cluster_folder, name)
    for number, (pod, container) in enumerate(pods(document)):
        assert re.fullmatch(r"registry\.example\.com/changenet:\d+\.\d+-(cpu|cuda)", container["image"])
        assert container["image"].endswith("-cuda") == ("nvidia.com/gpu" in container["resources"]["limits"])
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["livenessProbe"]["httpGet"] == {"path": "/api/healthz", "port": 52365}
        operator_asks = document["kind"] == "RayService" and number > 0
        assert ("readinessProbe" in container) != operator_asks
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) == set(volumes)
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        if "nvidia.com/gpu" in container["resources"]["limits"]:
            assert pod["nodeSelector"]
            assert any(each["key"] == "nvidia.com/gpu" for each in pod["tolerations"])


@pytest.mark.parametrize("name", RAY_KINDS)
def test_every_cluster_wants_the_token_and_runs_the_tested_ray(cluster_folder: Path, name: str) -> None:
    (document,) = manifest(cluster_folder, name)
    content = cluster(document)
    assert content["authOptions"] == {"mode": "token", "secretName": "changenet-ray-token"}
    assert content["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    pins = (cluster_folder.parent / "constraints.txt").read_text(encoding="utf-8")
    assert f"\nray=={content['rayVersion']}\n" in pins
    grows = any(group["maxReplicas"] > group["minReplicas"] for group in content["workerGroupSpecs"])
    assert (content.get("enableInTreeAutoscaling", False), content.get("autoscalerOptions", {}).get("version")) == (
        (True, "v2") if grows else (False, None)
    )


def test_claims_that_pods_mount_exist(cluster_folder: Path) -> None:
    claims = {document["metadata"]["name"] for document in manifest(cluster_folder, "storage")}
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for name in RAY_KINDS
        for document in manifest(cluster_folder, name)
        for pod, _ in pods(document)
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert used == claims


@pytest.mark.parametrize("name", ["train", "tune", "nightly"])
def test_a_job_ends_and_takes_its_cluster_along(cluster_folder: Path, name: str) -> None:
    (document,) = manifest(cluster_folder, name)
    spec = job(document)
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["backoffLimit"] > 0
    assert spec["activeDeadlineSeconds"] > 0


@pytest.mark.parametrize("name", ["train", "tune", "nightly"])
def test_our_command_understands_the_entrypoint(
    cluster_folder: Path, run_by_our_command: Callable[[str], dict[str, Any]], name: str
) -> None:
    (document,) = manifest(cluster_folder, name)
    options = run_by_our_command(job(document)["entrypoint"])
    outside = [each for each in options["overrides"] if each.startswith("results_dir=")]
    assert outside[0].startswith("results_dir=/results/")


def test_a_wrong_option_or_key_in_an_entrypoint_would_be_found(
    run_by_our_command: Callable[[str], dict[str, Any]],
) -> None:
    for command in ("train -e a.yaml --gpus 2", "train -e a.yaml train.ray.num_worker=2", "learn -e a.yaml"):
        with pytest.raises(Exception, match=r"--gpus|num_worker|learn"):
            run_by_our_command(f"python -m ray_jobs {command}")


def guide_commands(root: Path) -> list[str]:
    """Return every command of ours that the guide submits as a job."""
    text = (root / "docs" / "cluster.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.split(" -- ", 1)[1].strip() for line in text.splitlines() if "-- " in line and "ray_jobs" in line]


def test_our_command_understands_what_the_guide_submits(
    cluster_folder: Path, run_by_our_command: Callable[[str], dict[str, Any]]
) -> None:
    commands = guide_commands(cluster_folder.parent)
    assert len(commands) >= 4
    for command in commands:
        run_by_our_command(command)


def test_files_that_the_guide_names_exist(cluster_folder: Path) -> None:
    text = (cluster_folder.parent / "docs" / "cluster.md").read_text(encoding="utf-8")
    named = set(re.findall(r"cluster/(?:kuberay/)?[\w-]+\.yaml", text))
    assert len(named) >= 6
    assert [name for name in named if not (cluster_folder.parent / name).is_file()] == []


def test_ray_serve_builds_our_application_from_the_service(cluster_folder: Path) -> None:
    from ray._common.utils import import_attr
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
    from ray.serve.schema import ServeDeploySchema

    from serve.environment import ENVIRONMENT

    (document,) = manifest(cluster_folder, "serve")
    config = ServeDeploySchema.model_validate(yaml.safe_load(document["spec"]["serveConfigV2"]))
    (described,) = config.applications
    built = call_user_app_builder_with_args_if_necessary(import_attr(described.import_path), described.args)
    assert [each.name for each in described.deployments] == [built._bound_deployment.name]
    for _, container in pods(document):  # the controller runs on the head, proxies and replicas on workers
        assert ENVIRONMENT.items() <= {each["name"]: each["value"] for each in container["env"]}.items()
    ports = {port["name"]: port["containerPort"] for _, container in pods(document) for port in container["ports"]}
    assert ports["serve"] == config.http_options.port
    volumes = [mount["mountPath"] for _, container in pods(document) for mount in container["volumeMounts"]]
    assert all(model["bundle"].startswith(tuple(volumes)) for model in described.args["models"])


SERVED = """
results_dir: /results
serve:
  host: 0.0.0.0
  keys_file: /keys/keys.txt
  goldens_dir: /goldens
  cpus: 8
  autoscaling: {min_replicas: 2, max_replicas: 4}
  models:
    - {name: pcb, bundle: /results/pcb/export/bundle}
"""


def test_the_service_is_what_our_command_would_write(cluster_folder: Path, tmp_path: Path) -> None:
    from ray_jobs.serve_build import config
    from ray_jobs.serve_settings import choose

    (document,) = manifest(cluster_folder, "serve")
    (tmp_path / "spec.yaml").write_text(SERVED, encoding="utf-8")
    written = config(choose(spec=str(tmp_path / "spec.yaml")))
    assert yaml.safe_load(document["spec"]["serveConfigV2"]) == written
    (deployment,) = written["applications"][0]["deployments"]
    (workers,) = cluster(document)["workerGroupSpecs"]
    scaling = deployment["autoscaling_config"]
    # A replica fills a worker, and there is room for all: the fewest at once, the most when it has grown.
    (container,) = workers["template"]["spec"]["containers"]
    assert float(container["resources"]["limits"]["cpu"]) == deployment["ray_actor_options"]["num_cpus"]
    assert scaling["min_replicas"] <= workers["minReplicas"] and scaling["max_replicas"] <= workers["maxReplicas"]


def test_a_worker_that_has_to_go_answers_first_what_it_has_begun(cluster_folder: Path) -> None:
    from serve.app import build
    from serve.settings import ServiceSettings

    (document,) = manifest(cluster_folder, "serve")
    config = yaml.safe_load(document["spec"]["serveConfigV2"])
    settings = ServiceSettings(**config["applications"][0]["args"])
    drain = build(settings)._bound_deployment._deployment_config.graceful_shutdown_timeout_s
    (workers,) = cluster(document)["workerGroupSpecs"]
    pod = workers["template"]["spec"]
    _, pause = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert settings.limits.request_seconds < drain <= float(pause) < pod["terminationGracePeriodSeconds"]


def test_keys_come_from_a_secret_that_the_guide_makes(cluster_folder: Path) -> None:
    (document,) = manifest(cluster_folder, "serve")
    (application,) = yaml.safe_load(document["spec"]["serveConfigV2"])["applications"]
    folder, _, file = application["args"]["keys_file"].rpartition("/")
    (pod,) = (group["template"]["spec"] for group in cluster(document)["workerGroupSpecs"])
    (name,) = (mount["name"] for mount in pod["containers"][0]["volumeMounts"] if mount["mountPath"] == folder)
    (secret,) = (volume["secret"]["secretName"] for volume in pod["volumes"] if volume["name"] == name)
    guide = (cluster_folder.parent / "docs" / "cluster.md").read_text(encoding="utf-8")
    assert f"create secret generic {secret} --from-file={file}" in guide and f"changenet api-key {file}" in guide


def test_the_policy_opens_the_ports_that_pods_have_and_no_others(cluster_folder: Path) -> None:
    (policy,) = manifest(cluster_folder, "network-policy")
    between_nodes, *others = policy["spec"]["ingress"]
    assert between_nodes["from"] == [{"podSelector": policy["spec"]["podSelector"]}]
    assert all(rule["from"] for rule in others)
    opened = {port["port"] for rule in others for port in rule["ports"]}
    assert opened == {8265, 8000, 8080}
