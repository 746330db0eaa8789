"""What a service is told when it is deployed: its models and its limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

NAME_PATTERN = r"^[A-Za-z0-9._-]{1,128}$"
DOTS = (".", "..")


def reachable(name: str) -> str:
    """Return a name that a URL can hold; clients take `.` and `..` out of a path before they send it.

    Raises:
        ValueError: It is one of these.
    """
    if name in DOTS:
        raise ValueError(f"{name!r} cannot be a name: it does not survive in a URL")
    return name


Name = Annotated[str, Field(pattern=NAME_PATTERN), AfterValidator(reachable)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Settings):
    """A bundle, and what runs it."""

    bundle: str = Field(min_length=1, description="Bundle folder, as the replicas see it.")
    engine: str = Field(default="auto", description="auto, onnxruntime, torch or tensorrt.")
    version: str | None = Field(default=None, description="The version that the bundle must have; null takes any.")


class Autoscaling(_Settings):
    """Replicas by load; the names are Ray Serve's."""

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=2, ge=1)
    target_ongoing_requests: float = Field(default=8.0, gt=0)
    upscale_delay_s: float = Field(default=30.0, ge=0)
    downscale_delay_s: float = Field(default=600.0, ge=0)


class ModelSettings(Source):
    """One model: the name that clients use and the bundle behind it.

    Of several of one name the one with all the traffic answers; another one is its shadow, which sees a share. A model that
    states `replicas` or `autoscaling` has replicas of its own; all others share those of the service.
    """

    name: Name
    traffic: float = Field(default=1.0, gt=0, le=1, description="Below 1: a shadow, which sees this share of requests.")
    replicas: int | None = Field(default=None, ge=1, description="Replicas of its own.")
    autoscaling: Autoscaling | None = Field(default=None, description="Instead of `replicas`.")

    @property
    def bundles(self) -> ModelSettings:
        """What it says about bundles alone: how many replicas there are changes nothing about what is served."""
        return self.model_copy(update={"replicas": None, "autoscaling": None})

    @property
    def source(self) -> Source:
        """Its bundle, without the name."""
        return Source(bundle=self.bundle, engine=self.engine, version=self.version)


class Batching(_Settings):
    """How pictures of several requests share an engine call."""

    max_batch_size: int = Field(default=16, ge=1, description="Pictures, new goldens included, of one encoder call.")
    batch_wait_timeout_s: float = Field(
        default=0.0, ge=0, le=1, description="How long a free engine waits for a batch to fill; 0 takes what is there."
    )


class Limits(_Settings):
    """What one replica takes on.

    Memory for bodies is at most `inspections` times `request_bytes`: a board takes as many places as it may be larger. A model
    with replicas of its own adds as much for bodies that arrive, and what its replicas and Ray Serve's queue hold.
    """

    request_bytes: int = Field(default=32 << 20, gt=0, description="Largest body of a request.")
    picture_pixels: int = Field(default=64_000_000, gt=0, description="Width times height of one uploaded picture.")
    inspections: int = Field(default=64, gt=0, description="Inspections at the same time; one more is answered 503.")
    decoders: int = Field(default=2, gt=0, description="Threads that decode pictures.")
    batch_bytes: int = Field(default=256 << 20, gt=0, description="Largest body of a whole board.")
    batch_rows: int = Field(default=1000, gt=0, description="Pairs of a board.")
    batch_parts: int = Field(default=8000, gt=0, description="Pictures of a board.")
    request_seconds: float = Field(
        default=60.0,
        gt=0,
        description="A request ends after this, slow uploads included; behind HAProxy once for each.",
    )


class ServiceSettings(_Settings):
    """A whole service."""

    models: tuple[ModelSettings, ...] = Field(min_length=1)
    limits: Limits = Limits()
    batching: Batching = Batching()
    replicas: int = Field(default=1, ge=1)
    autoscaling: Autoscaling | None = Field(default=None, description="Instead of `replicas`.")
    cpus: int | None = Field(default=None, ge=1, description="What a replica reserves, and threads of an engine.")
    goldens_dir: str | None = Field(
        default=None, description="Where registered goldens are kept: a folder or URI that every replica sees."
    )
    golden_cache_bytes: int = Field(default=512 << 20, ge=0, description="Encoded goldens that a replica keeps.")
    encryption_key: SecretStr | None = Field(default=None, description="Opens encrypted bundles.")
    trusted_keys: tuple[str, ...] = Field(
        default=(), description="Public keys, as PEM text or files of the replicas; one must have signed each bundle."
    )
    keys_file: str | None = Field(
        default=None,
        description="File of API keys, as the replicas see it. None: whoever reaches the service may use it.",
    )

    @property
    def alone(self) -> dict[str, ModelSettings]:
        """The models with replicas of their own, by name."""
        return {each.name: each for each in self.models if each.traffic == 1 and (each.replicas or each.autoscaling)}

    @property
    def together(self) -> tuple[str, ...]:
        """Names of the models in the service's own replicas."""
        return tuple(dict.fromkeys(each.name for each in self.models if each.name not in self.alone))

    def of(self, name: str) -> ServiceSettings:
        """Return what the replicas of one model are told: nothing of the others."""
        models = tuple(model.bundles for model in self.models if model.name == name)
        return self.model_copy(update={"models": models, "replicas": 1, "autoscaling": None})

    @model_validator(mode="after")
    def _fits(self) -> ServiceSettings:
        for name in {model.name for model in self.models}:
            traffic = [model.traffic for model in self.models if model.name == name]
            if traffic.count(1.0) != 1 or len(traffic) > 2:
                raise ValueError(f"models: {name!r} needs one bundle with all the traffic, and at most one with less")
        for model in self.models:
            if model.replicas is not None and model.autoscaling is not None:
                raise ValueError(f"models: {model.name!r} has both replicas and autoscaling")
            if model.traffic < 1 and (model.replicas is not None or model.autoscaling is not None):
                raise ValueError(f"models: the shadow of {model.name!r} runs in the replicas of the one that answers")
        # Each engine has a thread of its own, so a batch of every model may be under way.
        batches = max(1, len(self.together)) * self.batching.max_batch_size
        if self.limits.inspections < batches:
            raise ValueError(
                f"limits.inspections ({self.limits.inspections}) is below {batches}, a batch of every model "
                f"(batching.max_batch_size, {self.batching.max_batch_size}): no batch could fill"
            )
        return self
