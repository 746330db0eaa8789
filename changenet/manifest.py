"""What a bundle says about itself: the content of `manifest.json` (docs/bundle.md lists the fields)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from changenet.data.lights import PictureLayout
from changenet.description import ModelDescription, Threshold
from changenet.storage import sha256

FORMAT = "changenet-bundle"
FORMAT_VERSION = 1
SELFTEST = "selftest.npz"
NETWORK = "network.safetensors"  # of the engine `torch`


@dataclass(frozen=True)
class Parity:
    """How well an engine agrees with the PyTorch network.

    Args:
        max_error: Largest |score difference| / max(1, |score|) over the pairs of the check; None where there was none.
        agreement: Fraction (0-1) of equal decisions on real pairs; None where none were compared.
        min_agreement: What was asked for.
        reason: Why there was no check, or no decisions were compared.
    """

    max_error: float | None
    agreement: float | None = None
    min_agreement: float = 0.99
    reason: str = ""


@dataclass(frozen=True)
class EngineEntry:
    """One way to run the model.

    Args:
        name: Unique in the bundle.
        runtime: `onnxruntime`, `tensorrt`, or `torch` where nothing else runs the network.
        precision: `fp32`, `fp16`, `int8` …
        sha256: File name to the digest of the file as it is stored.
        parity: Result of the check at export.
        tag: What else is known of the files: where a TensorRT engine runs; what quantized the network (`backend`), and, where
            PyTorch runs it, which layers.
    """

    name: str
    runtime: str
    precision: str
    sha256: dict[str, str]
    parity: Parity
    tag: dict[str, Any] = field(default_factory=dict)

    @property
    def verified(self) -> bool:
        """Whether it was held against the network and passed: by its scores in fp32, else by its decisions."""
        if self.precision == "fp32":
            return self.parity.max_error is not None
        return self.parity.agreement is not None and self.parity.agreement >= self.parity.min_agreement

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = {**asdict(self), "files": list(self.sha256)}
        if not self.tag:
            del values["tag"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineEntry:
        """Rebuild what `to_dict` took apart."""
        return cls(
            name=values["name"],
            runtime=values["runtime"],
            precision=values["precision"],
            sha256={name: values["sha256"][name] for name in values["files"]},
            parity=Parity(**values["parity"]),
            tag=values.get("tag", {}),
        )


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle says about itself.

    Args:
        description: The trained network's own description.
        engines: The ways to run it.
        selftest_sha256: Digest of `selftest.npz`.
        batch_size: Of `pair.onnx`; -1 takes any. The other graphs always take any.
        weights_sha256: Digest of the weights, by name, in the order of the network.
        exported_with: Versions of the packages that wrote the graphs.
    """

    description: ModelDescription
    engines: tuple[EngineEntry, ...]
    selftest_sha256: str
    batch_size: int = -1
    weights_sha256: str = ""
    exported_with: dict[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> dict[str, str]:
        """File name to digest, of every file but the manifest."""
        digests = {SELFTEST: self.selftest_sha256}
        for engine in self.engines:
            digests |= engine.sha256
        return digests

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `manifest.json`."""
        description = self.description.to_dict()
        network = description["network"]
        _, height, width = self.description.layout.shape
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "task": "classify",
            "difference_module": self.description.difference_module,
            "classes": description["classes"],
            "input": {
                **description["layout"],
                "size": [height, width],
                "channels": 3,
                "mean": network["mean"],
                "std": network["std"],
                "batch_size": self.batch_size,
                "image_ext": description["image_ext"],
            },
            "num_golden": description["num_golden"],
            "threshold": description["threshold"],
            "validation_scores": description["validation_scores"],
            "engines": [engine.to_dict() for engine in self.engines],
            "selftest": {"file": SELFTEST, "sha256": self.selftest_sha256},
            "provenance": {
                "spec_sha256": sha256(json.dumps(description["spec"], sort_keys=True).encode()),
                "data_sha256": description["data_hash"],
                "weights_sha256": self.weights_sha256,
                "metrics": description["metrics"],
                "spec": description["spec"],
            },
            "network": {key: value for key, value in network.items() if key not in ("mean", "std")},
            "versions": {"trained": description["versions"], "exported": self.exported_with},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Manifest:
        """Rebuild what `to_dict` took apart."""
        picture, provenance = values["input"], values["provenance"]
        layout = {name: picture[name] for name in ("lights", "concat", "grid", "width", "height")}
        description = ModelDescription(
            network={**values["network"], "mean": picture["mean"], "std": picture["std"]},
            layout=PictureLayout.from_dict(layout),
            threshold=Threshold.from_dict(values["threshold"]),
            classes=tuple(values["classes"]),
            num_golden=values["num_golden"],
            image_ext=picture["image_ext"],
            validation_scores=values["validation_scores"],
            spec=provenance["spec"],
            metrics=provenance["metrics"],
            versions=values["versions"]["trained"],
            data_hash=provenance["data_sha256"],
        )
        return cls(
            description=description,
            engines=tuple(EngineEntry.from_dict(engine) for engine in values["engines"]),
            selftest_sha256=values["selftest"]["sha256"],
            batch_size=picture["batch_size"],
            weights_sha256=provenance["weights_sha256"],
            exported_with=values["versions"]["exported"],
        )
