"""A TAO user's road: spec and checkpoint as they are, the converted checkpoint, and training on from TAO's weights."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from changenet.errors import SpecError
from changenet.training.checkpoint import load_checkpoint
from ray_jobs import convert, evaluate, inference, train

Write = Callable[..., str]
pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def spec(write_spec: Write, tao_spec: dict[str, Any]) -> Write:
    """Writes the spec of `tao_state` over `pair_folder`; keyword arguments are those of `write_spec`."""

    def write(**changes: Any) -> str:
        return write_spec(**{"model": tao_spec["model"], **changes})

    return write


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_tao_s_file_and_the_converted_one_are_scored_alike(spec: Write, write_tao: Write, tmp_path: Path) -> None:
    theirs, ours = write_tao("TAO.tlt"), str(tmp_path / "ours.pth")
    written = spec(model__classify__eval_margin=0.4, evaluate__checkpoint=theirs, inference__checkpoint=theirs)
    assert evaluate.run(written) == 0
    assert inference.run(written) == 0
    results = tmp_path / "results"
    before = (results / "inference" / "inference.csv").read_bytes()
    assert len({row["siamese_score"] for row in rows(results / "evaluate" / "evaluate.csv")}) > 12
    assert convert.run(theirs, written, ours) == 0
    assert inference.run(written, [f"inference.checkpoint={ours}"]) == 0
    assert (results / "inference" / "inference.csv").read_bytes() == before


def test_what_contradicts_the_spec_inside_stops_before_any_row(spec: Write, write_tao: Write) -> None:
    stated = {"model": {"classify": {"embed_dec": 5}}, "dataset": {"classify": {"image_width": 128}}}
    theirs = write_tao(hyper_parameters={"experiment_spec": stated})
    with pytest.raises(SpecError) as caught:
        evaluate.run(spec(evaluate__checkpoint=theirs))
    assert {problem.where for problem in caught.value.problems} == {
        "model.classify.embed_dec",
        "dataset.classify.image_width",
    }


@pytest.mark.slow
def test_training_goes_on_from_taos_weights(spec: Write, write_tao: Write, tmp_path: Path) -> None:
    theirs = write_tao()
    # A rate of nothing: what is written is what was read, but for the running statistics.
    written = spec(train__num_epochs=1, train__pretrained_model_path=theirs, train__optim__lr=0.0)
    assert train.run(written) == 0
    trained = load_checkpoint(str(tmp_path / "results" / "train" / "changenet_model_classify_latest.pth"))
    ours = str(tmp_path / "ours.pth")
    convert.run(theirs, written, ours)
    began = load_checkpoint(ours).state
    kept = [name for name in began if "running_" not in name and "num_batches" not in name]
    assert all(torch.equal(trained.state[name], began[name]) for name in kept)
    assert trained.training is not None
    assert trained.training["progress"]["epoch"] == 1
    assert trained.description.threshold.policy == "recall"
