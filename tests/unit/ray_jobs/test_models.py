from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from changenet.errors import SpecError
from changenet.model.catalogue import CATALOGUE
from ray_jobs import models
from ray_jobs.cli import app


def test_every_encoder_stands_in_its_family_with_its_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert models.run() == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in CATALOGUE)
    (line,) = (line for line in printed.splitlines() if line.strip().startswith("fan_tiny_8_p4_hybrid"))
    assert "7.3 M" in line
    assert "multiples of 16" in line
    assert "128/256/192/192 wide at 4/8/16/16" in line
    assert "timm/tf_efficientnet_lite0" in printed  # the advice


def test_json_is_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    models.run("radio", json_output=True)
    listed = json.loads(capsys.readouterr().out)
    assert {facts["family"] for facts in listed} == {"vit"}
    (base,) = (facts for facts in listed if facts["name"] == "c_radio_v2_vit_base_patch16_224")
    assert base["parameters"] == 121_709_464
    assert (base["side_multiple"], base["side_multiple_euclidean"], base["default_side"]) == (32, 16, 224)
    assert base["licence"]


def test_timm_is_searched_by_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    models.run("timm/efficientnet_lite0")
    assert "timm/tf_efficientnet_lite0" in capsys.readouterr().out.split()
    models.run("timm/convnext*", json_output=True)
    assert all(name.startswith("timm/convnext") for name in json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("pattern", ["nothing_like_it", "timm/nothing_like_it"])
def test_no_match_is_an_error(pattern: str) -> None:
    with pytest.raises(SpecError, match="nothing_like_it"):
        models.run(pattern)


def test_listing_loads_neither_torch_nor_timm() -> None:
    code = (
        "import sys; from ray_jobs import models; models.run()\n"
        "heavy = {'torch', 'timm', 'ray', 'pandas'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_verb_is_there() -> None:
    assert CliRunner().invoke(app, ["models", "fan_tiny"]).exit_code == 0
