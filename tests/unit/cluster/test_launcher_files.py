"""The files of Ray's cluster launcher, against the schema and the checks of the installed Ray."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

LAUNCHERS = ("onprem", "aws")


def launcher(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_accepts_it_as_written_and_with_its_defaults(cluster_folder: Path, name: str) -> None:
    written = launcher(cluster_folder, name)
    validate_config({**written, "cluster_synced_files": []})  # the one key that Ray demands and always fills in itself
    validate_config(prepare_config(copy.deepcopy(written)))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_an_unknown_key_would_be_refused(cluster_folder: Path, name: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**launcher(cluster_folder, name), "cluster_synced_files": [], "max_worker": 3})


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_token_is_on_every_node_and_the_dashboard_on_none_but_the_head(cluster_folder: Path, name: str) -> None:
    content = launcher(cluster_folder, name)
    assert any(target.endswith(".ray/auth_token") for target in content["file_mounts"])
    starts = [
        command
        for kind in ("head", "worker")
        for command in content[f"{kind}_start_ray_commands"]
        if "ray start" in command
    ]
    assert len(starts) == 2
    everywhere = " ".join(content.get("docker", {}).get("run_options", []))
    assert all("RAY_AUTH_MODE=token" in command or "RAY_AUTH_MODE=token" in everywhere for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in " ".join(starts)


def test_on_hosts_the_environment_is_there_before_ray_starts(cluster_folder: Path) -> None:
    content = launcher(cluster_folder, "onprem")
    for command in [*content["head_start_ray_commands"], *content["worker_start_ray_commands"]]:
        assert command.startswith(". ~/changenet/.venv/bin/activate && ")


def test_on_hosts_everything_that_an_installation_needs_is_copied(cluster_folder: Path) -> None:
    mounts = launcher(cluster_folder, "onprem")["file_mounts"]
    copied = {local for target, local in mounts.items() if target == f"~/changenet/{local}"}
    assert all((cluster_folder.parent / local).exists() for local in copied)
    project = tomllib.loads((cluster_folder.parent / "pyproject.toml").read_text(encoding="utf-8"))
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    needed = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml", "constraints.txt"}
    assert copied == packages | needed | {"Makefile"}


def test_on_aws_only_workers_are_spot_and_they_go_when_idle(cluster_folder: Path) -> None:
    content = launcher(cluster_folder, "aws")
    head, *workers = content["available_node_types"].values()
    assert content["head_node_type"] == next(iter(content["available_node_types"]))
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"] == {"CPU": 0}
    for worker in workers:
        assert worker["min_workers"] == 0
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
