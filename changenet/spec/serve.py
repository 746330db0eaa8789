"""`serve`: our own keys for the HTTP service. A service is told them in these words too (`serve.settings`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from changenet.spec.section import Integer, Number, Positive, Resources, Section

NAME_PATTERN = r"^[A-Za-z0-9._-]{1,128}$"
DOTS = (".", "..")
INSPECTIONS = 64


def reachable(name: str) -> str:
    """Return a name that a URL can hold; clients take `.` and `..` out of a path before they send it.

    Raises:
        ValueError: It is one of these.
    """
    if name in DOTS:
        raise ValueError(f"{name!r} cannot be a name: it does not survive in a URL")
    return name


Name = Annotated[str, Field(pattern=NAME_PATTERN), AfterValidator(reachable)]


class Autoscaling(Section):
    """`serve.autoscaling` and `serve.models[].autoscaling`: replicas by load. Ray Serve calls it the same."""

    min_replicas: Annotated[Integer, Field(ge=0)] = Field(
        default=1, description="Fewest replicas; 0 lets the first request after a pause wait for one."
    )
    max_replicas: Positive | None = Field(
        default=None, description="Most replicas. Unset: as many as `replicas` says, whatever the load."
    )
    target_ongoing_requests: Annotated[Number, Field(gt=0)] = Field(
        default=8.0, description="Requests at once that one replica should have."
    )
    upscale_delay_s: Annotated[Number, Field(ge=0)] = Field(
        default=30.0, description="How long there must be more before a replica is added."
    )
    downscale_delay_s: Annotated[Number, Field(ge=0)] = Field(
        default=600.0, description="How long there must be fewer before a replica goes."
    )

    @property
    def is_on(self) -> bool:
        """The number of replicas follows the load."""
        return self.max_replicas is not None


class Placement(Section):
    """Replicas of the service, or of one model: by load, and what each has of which node."""

    autoscaling: Autoscaling = Autoscaling()
    cpus: Positive | None = Field(
        default=None,
        description="CPUs that a replica reserves and its engines use. Unset: it reserves 1 and uses all; of a model: as the "
        "service.",
    )
    gpus: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Share of a GPU that a replica reserves; above 0 its engines run there. Unset: none, and only a TensorRT "
        "engine looks for one; of a model: as the service.",
    )
    resources: Resources | None = Field(
        default=None,
        description="Ray's custom resources that a replica reserves: {line_3: 0.01} goes only where nodes have line_3. Unset: "
        "none; of a model: as the service.",
    )
    max_replicas_per_node: Annotated[Positive, Field(le=100)] | None = Field(  # Ray Serve refuses more
        default=None, description="Most replicas on one node. Unset: as many as fit; of a model: as the service."
    )


class Source(Section):
    """A bundle, and what runs it."""

    bundle: str = Field(min_length=1, description="Bundle folder.")
    engine: Literal["auto", "torch", "onnxruntime", "tensorrt"] = Field(
        default="auto", description="What runs the network."
    )
    version: str | None = Field(
        default=None, description="The version that the bundle must have. Unset: whichever it has."
    )


class ServedModel(Placement, Source):
    """`serve.models[]`: one model, and how clients call it.

    Of several of one name the one with all the traffic answers; another one is its shadow, which sees a share. A model that
    states `replicas` or `autoscaling` has replicas of its own; all others share those of the service.
    """

    name: Name = Field(description="What clients call it: letters, digits, dot, dash, underscore.")
    traffic: Annotated[Number, Field(gt=0, le=1)] = Field(
        default=1.0, description="Below 1: a shadow of the model of that name; it sees this share, nobody its verdicts."
    )
    replicas: Positive | None = Field(
        default=None, description="Replicas of its own. Unset, without autoscaling: it shares those of the service."
    )

    @property
    def is_alone(self) -> bool:
        """It has replicas of its own."""
        return self.replicas is not None or self.autoscaling.is_on


class Batching(Section):
    """How pictures of several requests share an engine call."""

    max_batch_size: Positive = Field(
        default=16, description="Pictures, new goldens included, that one call of the engine encodes."
    )
    batch_wait_timeout_s: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.0, description="How long a free engine waits for a batch to fill; 0 takes what is there."
    )


class Service(Placement, Batching):
    """What replicas are told: models, limits, and how many there are."""

    models: tuple[ServedModel, ...] = Field(
        default=(), description="What is served; of one name one answers, and one may be its shadow."
    )
    trusted_keys: tuple[str, ...] = Field(
        default=(), description="Files of public keys: one of them must have signed each bundle. Empty: none must."
    )
    keys_file: str | None = Field(
        default=None,
        description="File of API keys (changenet api-key), seen by every node. Unset: no key is asked for.",
    )
    max_request_mb: Positive = Field(default=32, description="Largest request, in MiB.")
    max_picture_megapixels: Annotated[Positive, Field(le=178)] = Field(  # Pillow refuses more
        default=64, description="Largest picture, in megapixels."
    )
    request_timeout_s: Annotated[Number, Field(ge=1, le=3600)] = Field(
        default=60.0,
        description="Seconds until a request ends without a verdict: more for boards that take an engine longer.",
    )
    goldens_dir: str | None = Field(
        default=None,
        description="Where registered goldens are kept: a folder or URI that all nodes see. Unset: RESULTS/serve/goldens.",
    )
    golden_cache_mb: Annotated[Integer, Field(ge=0)] = Field(
        default=512, description="Encoded goldens that a replica keeps in memory, in MiB."
    )
    max_ongoing_requests: Positive | None = Field(
        default=None,
        description="Inspections that a replica holds at once; one more is answered 503. At least a batch of each of its models. "
        f"Unset: {INSPECTIONS}, or as many.",
    )
    replicas: Positive = Field(
        default=1, description="Replicas, without autoscaling; each holds all models that have none of their own."
    )

    @property
    def alone(self) -> dict[str, ServedModel]:
        """The models with replicas of their own, by name."""
        return {each.name: each for each in self.models if each.traffic == 1 and each.is_alone}

    @property
    def together(self) -> tuple[str, ...]:
        """Names of the models in the service's own replicas."""
        return tuple(dict.fromkeys(each.name for each in self.models if each.name not in self.alone))

    @property
    def batches(self) -> int:
        """Pictures that may be under way: each engine has a thread of its own, so a batch of each model of a replica."""
        return max(1, len(self.together)) * self.max_batch_size


class Listening(Section):
    """Where a service listens, and what stands in front of it."""

    host: str = Field(default="127.0.0.1", description="Address to listen on: IPv4, or a name of one.")
    port: Annotated[Integer, Field(ge=1, le=65535)] = Field(default=8000, description="Port to listen on.")
    proxy: Literal["auto", "haproxy", "ray"] = Field(
        default="auto",
        description="What takes the requests in front of the replicas of a Ray that `changenet serve` starts: HAProxy, or Ray "
        "Serve's own proxy, which is slower. `auto`: HAProxy where it is installed, and Ray's for HTTPS.",
    )
    tls_certificate: str | None = Field(default=None, description="Certificate (PEM) for HTTPS. Unset: plain HTTP.")
    tls_key: str | None = Field(default=None, description="Private key (PEM) of the certificate.")


class Serve(Service, Listening):
    """`serve`: what `changenet serve` reads; its options win."""
