"""What the service counts for Prometheus. `INSTRUMENTS` is the list; docs/serving.md says what each is good for.

Routes and models are given one `Metrics` and call it; where the numbers go is the sink's business. Names, statuses and
numbers only: nothing of a picture, a key or a client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from serve.drift import ScoreWindow, has_scores

if TYPE_CHECKING:
    from changenet.description import ModelDescription

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
# Fine at both ends of 0-1, where the scores of a classifier lie; beyond 1 only distances.
_SCORES = (
    0.001,
    0.003,
    0.01,
    0.03,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    0.97,
    0.99,
    0.997,
    0.999,
    1.0,
    1.5,
    2.0,
    3.0,
    5.0,
)
_PAIRS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


@dataclass(frozen=True)
class Instrument:
    """One metric.

    Args:
        kind: A counter gets `_total` at the end of its name, every metric `ray_` in front.
        description: Its help text.
        tags: Beside Ray Serve's own: application, deployment, replica.
        boundaries: Upper ends of the buckets of a histogram.
    """

    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...]
    boundaries: tuple[float, ...] = ()


INSTRUMENTS = {
    "changenet_requests": Instrument("counter", "Requests that were answered.", ("route", "method", "status")),
    "changenet_request_seconds": Instrument(
        "histogram", "From the head of a request to its answer.", ("route",), _SECONDS
    ),
    "changenet_stage_seconds": Instrument(
        "histogram", "What an inspection waited for: read, decode or engine.", ("model", "stage"), _SECONDS
    ),
    "changenet_engine_seconds": Instrument("counter", "Seconds in which an engine computed.", ("model",)),
    "changenet_batch_pairs": Instrument("histogram", "Pairs that an engine compared in one call.", ("model",), _PAIRS),
    "changenet_goldens": Instrument(
        "counter", "Goldens of inspections, by whether they were encoded before.", ("model", "cached")
    ),
    "changenet_decisions": Instrument("counter", "Verdicts.", ("model", "version", "prediction")),
    "changenet_score": Instrument("histogram", "Scores.", ("model", "version"), _SCORES),
    "changenet_score_drift": Instrument(
        "gauge", "Population stability index of the last scores against the validation scores.", ("model", "version")
    ),
    "changenet_model_behind": Instrument(
        "gauge", "1 while a replica does not run all that is wanted of a model, else 0.", ("model",)
    ),
    "changenet_picture_errors": Instrument("counter", "Pictures that were refused, by problem.", ("model", "problem")),
}


class Sink(Protocol):
    """Takes one number of one of `INSTRUMENTS`."""

    def record(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Count, set or observe it, as the instrument says."""


class Nowhere:
    """Forgets everything."""

    def record(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Forget it."""


class RaySink:
    """Hands the numbers to the Ray of this replica, whose node's agent shows them to Prometheus."""

    def __init__(self) -> None:
        from ray.serve import metrics

        self._record: dict[str, Any] = {}
        for name, each in INSTRUMENTS.items():
            if each.kind == "counter":
                self._record[name] = metrics.Counter(name, each.description, each.tags).inc
            elif each.kind == "gauge":
                self._record[name] = metrics.Gauge(name, each.description, each.tags).set
            else:
                self._record[name] = metrics.Histogram(name, each.description, list(each.boundaries), each.tags).observe

    def record(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Hand it on."""
        self._record[name](value, tags=tags)


class _ShadowSink:
    """Hands on what an engine does."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def record(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Hand it on, or forget it."""
        if name in ("changenet_engine_seconds", "changenet_batch_pairs"):
            self._sink.record(name, value, {**tags, "model": f"{tags['model']} (shadow)"})


class Metrics:
    """What there is to tell.

    Args:
        sink: Where to; none: nowhere.
    """

    def __init__(self, sink: Sink | None = None) -> None:
        self._sink = sink or Nowhere()
        self._windows: dict[tuple[str, str], ScoreWindow] = {}

    def of_shadow(self) -> Metrics:
        """Return what a candidate in the shadow counts: the work of its engine, under a name that no model has."""
        return self if isinstance(self._sink, _ShadowSink) else Metrics(_ShadowSink(self._sink))

    def request(self, *, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered; `route` is the pattern, never the path."""
        self._sink.record("changenet_requests", 1, {"route": route, "method": method, "status": str(status)})
        self._sink.record("changenet_request_seconds", seconds, {"route": route})

    def stage(self, model: str, stage: Literal["read", "decode", "engine"], seconds: float) -> None:
        """An inspection waited for one of its stages."""
        self._sink.record("changenet_stage_seconds", seconds, {"model": model, "stage": stage})

    def engine_call(self, model: str, *, pairs: int, seconds: float) -> None:
        """An engine compared pairs."""
        self._sink.record("changenet_batch_pairs", pairs, {"model": model})
        if seconds > 0:
            self._sink.record("changenet_engine_seconds", seconds, {"model": model})

    def golden(self, model: str, *, cached: bool) -> None:
        """The golden of an inspection had been encoded before, or not."""
        self._sink.record("changenet_goldens", 1, {"model": model, "cached": str(cached).lower()})

    def decision(
        self, model: str, version: str, *, description: ModelDescription, score: float, prediction: str
    ) -> None:
        """A pair was decided."""
        tags = {"model": model, "version": version}
        self._sink.record("changenet_decisions", 1, {**tags, "prediction": prediction})
        self._sink.record("changenet_score", score, tags.copy())
        if not has_scores(description.validation_scores):
            return
        if (model, version) not in self._windows:
            self._windows[model, version] = ScoreWindow(description.validation_scores, description.threshold.value)
        if (index := self._windows[model, version].add(score)) is not None:
            self._sink.record("changenet_score_drift", index, tags.copy())

    def retired(self, model: str, version: str) -> None:
        """A version answers no more: what its scores drifted must not look like those of the one that answers now."""
        if self._windows.pop((model, version), None):
            self._sink.record("changenet_score_drift", 0.0, {"model": model, "version": version})

    def behind(self, model: str, *, is_behind: bool) -> None:
        """This replica runs all that is wanted of a model, or not."""
        self._sink.record("changenet_model_behind", float(is_behind), {"model": model})

    def picture_error(self, model: str, problem: str) -> None:
        """A picture was refused; `problem` is the kind of the HTTP problem."""
        self._sink.record("changenet_picture_errors", 1, {"model": model, "problem": problem})
