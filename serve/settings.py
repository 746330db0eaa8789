"""What a service is told when it is deployed: the section `serve` of a spec, without where it listens."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from changenet.passphrase import from_file
from changenet.spec.serve import (
    DOTS,
    INSPECTIONS,
    NAME_PATTERN,
    Autoscaling,
    Batching,
    Name,
    Placement,
    ServedModel,
    Service,
    Source,
    reachable,
)
from changenet.spec.serve_checks import check_serve

__all__ = [
    "DOTS",
    "NAME_PATTERN",
    "Autoscaling",
    "Batching",
    "Limits",
    "ModelSettings",
    "Name",
    "ServiceSettings",
    "Source",
    "reachable",
]

_DEFAULTS = Service()
DECODERS = 2  # or as many as the CPUs that a replica reserves
_REPLICAS = {"replicas", *Placement.model_fields}


class ModelSettings(ServedModel):
    """One model: the name that clients use and the bundle behind it."""

    @property
    def bundles(self) -> ModelSettings:
        """What it says about bundles alone: where its replicas are, and how many, changes nothing about what is served."""
        return ModelSettings(**self.model_dump(exclude=_REPLICAS))

    @property
    def source(self) -> Source:
        """Its bundle, without the name."""
        return Source(**{key: getattr(self, key) for key in Source.model_fields})


class Limits(BaseModel):
    """What one replica takes on.

    Memory for bodies is at most `inspections` times `request_bytes`: a board takes as many places as it is larger. A model
    with replicas of its own adds as much for bodies that arrive, and what its replicas and Ray Serve's queue hold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    request_bytes: int = Field(default=_DEFAULTS.max_request_mb << 20, gt=0, description="Largest body of a request.")
    picture_pixels: int = Field(
        default=_DEFAULTS.max_picture_megapixels * 1_000_000,
        gt=0,
        description="Width times height of one uploaded picture.",
    )
    inspections: int = Field(
        default=INSPECTIONS, gt=0, description="Inspections at the same time; one more is answered 503."
    )
    decoders: int = Field(default=DECODERS, gt=0, description="Threads that decode pictures.")
    batch_bytes: int = Field(default=256 << 20, gt=0, description="Largest body of a whole board.")
    batch_rows: int = Field(default=1000, gt=0, description="Pairs of a board.")
    batch_parts: int = Field(default=8000, gt=0, description="Pictures of a board.")
    request_seconds: float = Field(
        default=_DEFAULTS.request_timeout_s,
        gt=0,
        description="A request ends after this, slow uploads included; behind HAProxy once for each.",
    )


class ServiceSettings(Service):
    """A whole service: the keys of `serve`, and the passphrase of its bundles."""

    models: tuple[ModelSettings, ...] = Field(min_length=1)
    encryption_key: SecretStr | None = Field(default=None, description="Opens encrypted bundles.")
    encryption_key_file: str | None = Field(
        default=None,
        description="File that holds it in its place, which every replica sees: nobody reads it in the configuration.",
    )
    hosts: tuple[str, ...] = Field(
        default=(), description="Names by which a service without keys may be called, without port; none: any."
    )

    def passphrase(self) -> str | None:
        """Return what opens encrypted bundles (raises CheckpointError as `changenet.passphrase.from_file`)."""
        if self.encryption_key is not None:
            return self.encryption_key.get_secret_value()
        return from_file(self.encryption_key_file) if self.encryption_key_file else None

    @property
    def limits(self) -> Limits:
        """What one replica takes on."""
        return Limits(
            request_bytes=self.max_request_mb << 20,
            picture_pixels=self.max_picture_megapixels * 1_000_000,
            inspections=self.max_ongoing_requests or max(INSPECTIONS, self.batches),
            decoders=max(DECODERS, int(self.cpus or 0)),
            request_seconds=self.request_timeout_s,
        )

    @property
    def batching(self) -> Batching:
        """How pictures share an engine call."""
        return Batching(**{key: getattr(self, key) for key in Batching.model_fields})

    def of(self, name: str) -> ServiceSettings:
        """Return what the replicas of one model are told: nothing of the others, nor how many there are of its own."""
        models = tuple(model.bundles for model in self.models if model.name == name)
        own = self.alone.get(name, Placement())
        said = {key: value for key in Placement.model_fields if (value := getattr(own, key)) is not None}
        counts = {"replicas": 1, "autoscaling": Autoscaling(), "max_ongoing_requests": self.limits.inspections}
        return self.model_copy(update={**said, **counts, "models": models})

    @model_validator(mode="after")
    def _fits(self) -> ServiceSettings:
        found = [f"{finding.keys[0]} {finding.what}" for finding in check_serve(self)]
        if self.encryption_key is not None and self.encryption_key_file is not None:
            found.append("encryption_key and encryption_key_file are both given: only one of them can count")
        if found:
            raise ValueError("; ".join(found))
        return self
