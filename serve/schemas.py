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
    version: str = Field(
        description="Names the exact bundle: the same version gives the same score in the same engine."
    )
    engine: str
    score: float = Field(description="How different test and golden are.")
    threshold: float = Field(description="FAIL when the score is greater.")
    threshold_source: Literal["model", "request"] = Field(description="Who chose the threshold.")
    prediction: str = Field(description="PASS or FAIL; with several classes PASS or the name of the defect.")
    golden_cached: bool = Field(description="Whether the golden had been encoded before.")
    timing_ms: Timing


class RowError(_Schema):
    """Why a row has no verdict; the fields of a problem."""

    type: str
    title: str
    status: int
    detail: str


class RowResult(_Schema):
    """The verdict on one row of a board."""

    id: str
    score: float | None = Field(description="Null where the row could not be scored.")
    threshold: float
    threshold_source: Literal["model", "request"]
    prediction: str = Field(description="As for one pair; ERROR where the row could not be scored.")
    golden_cached: bool
    error: RowError | None


class BoardTiming(_Schema):
    """Where the time of a board went, in milliseconds."""

    read: float = Field(description="Receiving and taking apart the body.")
    inspect: float = Field(description="Decoding and comparing all pictures.")
    total: float


class BoardInspection(_Schema):
    """The verdicts on a board, in the order of the manifest."""

    model: str
    version: str
    engine: str
    results: list[RowResult]
    timing_ms: BoardTiming


class GoldenFacts(_Schema):
    """A registered golden."""

    model: str
    golden_id: str
    pictures: list[dict[str, str]] = Field(description="For each picture the SHA-256 of every light.")
    bytes: int
    registered: str = Field(description="When, in UTC.")


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


class FailedChange(_Schema):
    """Another bundle was to take over and could not."""

    bundle: str
    reason: str
    at: str = Field(description="When, in UTC.")


class ModelSummary(_Schema):
    """One line of the list of models."""

    name: str
    version: str
    engine: str
    difference_module: str
    threshold: float
    previous: str | None = Field(default=None, description="The version that a rollback brings back.")
    shadow: str | None = Field(default=None, description="The version in the shadow.")
    failure: FailedChange | None = Field(default=None, description="The last change, where it failed.")
    behind: str | None = Field(
        default=None, description="Why the replica that answers does not run all that is wanted."
    )
    trying: str | None = Field(default=None, description="The bundle that the replica that answers tries out just now.")


class ShadowReport(_Schema):
    """What a candidate in the shadow would have said."""

    model: str
    active: str = Field(description="The version that answers.")
    candidate: str = Field(description="The version in the shadow.")
    traffic: float
    pairs: int = Field(description="That both judged.")
    agreement: float | None = Field(description="Share of equal predictions, 0-1.")
    only_candidate_fails: int
    only_active_fails: int
    mean_difference: float | None = Field(description="Of the scores.")
    largest_difference: float | None
    drift: float | None = Field(description="Population stability index of its scores; over 0.25 they moved clearly.")
    errors: int = Field(description="Pairs that the candidate could not judge.")
    skipped: int = Field(description="Pairs of its share that it was too busy for.")


class ModelAway(_Schema):
    """A model with replicas of its own, of which none runs or answers."""

    name: str
    reason: str
    sleeps: bool = Field(default=False, description="It was scaled to zero: the next request starts a replica.")


class ModelList(_Schema):
    """What is served."""

    models: list[ModelSummary]
    away: list[ModelAway] = Field(default=[], description="Models that nobody can say more about at the moment.")


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


class ServerMetadata(_Schema):
    """What serves here, as the Open Inference Protocol asks for it."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(_Schema):
    """One tensor of a model."""

    name: str
    datatype: str
    shape: list[int]


class TensorModel(_Schema):
    """A model, as the Open Inference Protocol asks for it."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(_Schema):
    """The model is loaded."""

    name: str
    ready: Literal[True] = True


class Live(_Schema):
    """The process answers."""

    live: Literal[True] = True


class Ready(_Schema):
    """Every model is loaded, or sleeps."""

    ready: Literal[True] = True


class ProblemDetails(_Schema):
    """An error, as `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    problems: list[str] | None = None
