"""What a trained network must say about itself so that nobody ever needs the train section again.

Checkpoints and bundles both carry a `ModelDescription`; evaluation, export and serving read everything from it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from changenet.data.lights import PictureLayout

PASS = "PASS"  # noqa: S105 - the label of a good part, not a password
UNSCORED = "ERROR"  # the prediction of a row that could not be scored
BINARY_CLASSES = (PASS, "defect")


@dataclass(frozen=True)
class Threshold:
    """Turns a score into a decision: FAIL when the score is strictly greater (TAO's rule).

    Args:
        value: In score units: a distance >= 0 (euclidean) or a probability in 0-1 (learnable).
        policy: `margin` = written by the user; `recall` = fitted on validation.
        target: The recall (0-1) that was asked for, with policy `recall`.
        interval: The 95 % Clopper-Pearson interval of the recall reached on validation.
    """

    value: float
    policy: Literal["margin", "recall"] = "margin"
    target: float | None = None
    interval: tuple[float, float] | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Threshold:
        """Rebuild what `dataclasses.asdict` took apart (JSON turns the tuple into a list)."""
        interval = values.get("interval")
        return cls(**{**values, "interval": tuple(interval) if interval is not None else None})


@dataclass(frozen=True)
class ModelDescription:
    """Everything beside the weights.

    Args:
        network: Keyword arguments that rebuild the `ChangeNet`, mean and std included.
        layout: The lights of a picture, in order, and how they become one picture.
        classes: The meaning of the outputs; `("PASS", "defect")` for the binary meaning.
        num_golden: Goldens a pair.
        image_ext: Suffix of the picture files of the data set, with its dot.
        threshold: The decision threshold.
        validation_scores: Histogram `{"edges": […], "PASS": […], "defect": […]}`; empty before the first validation.
        spec: The experiment, without secrets.
        metrics: The metrics of the last validation.
        versions: Versions of the packages that trained it.
        data_hash: SHA-256 of the training CSV.
    """

    network: dict[str, Any]
    layout: PictureLayout
    threshold: Threshold
    classes: tuple[str, ...] = BINARY_CLASSES
    num_golden: int = 1
    image_ext: str = ".jpg"
    validation_scores: dict[str, list[float]] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    data_hash: str = ""

    @property
    def difference_module(self) -> str:
        """`learnable` (a classifier) or `euclidean` (a distance)."""
        return str(self.network["difference_module"])

    def with_threshold(self, threshold: Threshold) -> ModelDescription:
        """Return a copy that decides by another threshold."""
        return replace(self, threshold=threshold)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values only: what JSON and `torch.load(weights_only=True)` can hold."""
        return {**asdict(self), "layout": self.layout.to_dict(), "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelDescription:
        """Rebuild what `to_dict` took apart."""
        return cls(
            **{
                **values,
                "layout": PictureLayout.from_dict(values["layout"]),
                "threshold": Threshold.from_dict(values["threshold"]),
                "classes": tuple(values["classes"]),
            }
        )
