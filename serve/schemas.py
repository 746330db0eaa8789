"""The JSON that the service answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True)


class Timing(_Schema):
    """Where the time of one inspection went, in milliseconds."""

    read: float = Field(description="Receiving and taking apart the body.")
    decode: float = Field(description="Decoding and resizing the pictures.")
    engine: float = Field(description="Comparing them, waiting for the engine included.")
    total: float


class Inspection(_Schema):
    """The verdict on one pair."""

    model: str
    version: str = Field(description="Names the exact bundle: the same version always gives the same score.")
    engine: str
    score: float = Field(description="How different test and golden are.")
    threshold: float = Field(description="FAIL when the score is greater.")
    prediction: str = Field(description="PASS or FAIL; with several classes PASS or the name of the defect.")
    golden_cached: bool = Field(description="Whether the golden had been encoded before.")
    timing_ms: Timing


class Input(_Schema):
    """How pictures enter the network."""

    lights: list[str] = Field(description="In order; an empty name is the only light.")
    concat: str
    grid: list[int] = Field(description="Columns and rows, with concat grid.")
    width: int = Field(description="Of one light, in pixels.")
    height: int
    mean: list[float]
    std: list[float]


class ThresholdFacts(_Schema):
    """The threshold and where it comes from."""

    value: float
    policy: str
    target: float | None
    interval: list[float] | None


class ModelSummary(_Schema):
    """One line of the list of models."""

    name: str
    version: str
    engine: str
    difference_module: str
    threshold: float


class ModelList(_Schema):
    """What is served."""

    models: list[ModelSummary]


class ModelFacts(_Schema):
    """What the bundle says about itself; never its spec, which holds paths of the machine that trained it."""

    name: str
    version: str
    engine: str
    difference_module: str
    backbone: str
    classes: list[str]
    input: Input
    num_golden: int
    threshold: ThresholdFacts
    validation_scores: dict[str, list[float]] = Field(description="Histograms: edges, and counts of PASS and defect.")
    metrics: dict[str, Any] = Field(description="Metrics of the last validation.")
    versions: dict[str, str]
    data_hash: str


class Live(_Schema):
    """The process answers."""

    live: Literal[True] = True


class Ready(_Schema):
    """Every model is loaded."""

    ready: Literal[True] = True


class ProblemDetails(_Schema):
    """An error, as `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    problems: list[str] | None = None
