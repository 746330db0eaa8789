"""Prometheus and Grafana: every metric is one that the installed Ray's own dashboards ask for, or one of our service."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray.dashboard.modules.metrics.dashboards as ray_dashboards
import yaml
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

from serve.metrics import INSTRUMENTS

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
METRIC = re.compile(r"\b(ray_[a-z0-9_]+)\{")


@pytest.fixture(scope="module")
def dashboard(cluster_folder: Path) -> dict[str, Any]:
    path = cluster_folder / "monitoring" / "grafana-dashboard.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def known() -> set[str]:
    folder = Path(next(iter(ray_dashboards.__path__)))
    rays = {name for path in folder.glob("*_panels.py") for name in METRIC.findall(path.read_text(encoding="utf-8"))}
    ours = {f"ray_{name}{end}" for name, each in INSTRUMENTS.items() for end in SUFFIXES[each.kind]}
    return rays | ours


def test_ray_exports_every_metric(dashboard: dict[str, Any], known: set[str]) -> None:
    questions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    questions += [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    assert len(questions) > 20
    for question in questions:
        asked = set(METRIC.findall(question))
        assert asked, question
        assert asked <= known, question
        assert question.count("(") == question.count(")")
        assert question.count("{") == question.count("}")


def test_panels_neither_overlap_nor_share_a_number(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_every_metric_of_the_service_is_shown(dashboard: dict[str, Any]) -> None:
    text = json.dumps(dashboard)
    assert not {name for name in INSTRUMENTS if f"ray_{name}" not in text}


def test_training_service_and_nodes_are_all_shown(dashboard: dict[str, Any]) -> None:
    text = json.dumps(dashboard)
    assert all(f"ray_{kind}_" in text for kind in ("train", "serve", "node"))


def test_prometheus_finds_the_nodes_where_ray_says_they_are(cluster_folder: Path) -> None:
    hosts, pods = (
        yaml.safe_load((cluster_folder / "monitoring" / f"prometheus-{kind}.yaml").read_text(encoding="utf-8"))
        for kind in ("hosts", "kubernetes")
    )
    (job,) = hosts["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]}]
    (job,) = pods["scrape_configs"]
    assert job["kubernetes_sd_configs"] == [{"role": "pod", "namespaces": {"names": ["changenet"]}}]
    assert [rule["action"] for rule in job["relabel_configs"] if "action" in rule] == ["keep", "keep"]
