"""`serve`: our own keys for the HTTP service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from changenet.spec.section import Integer, Number, Positive, Section


class Autoscaling(Section):
    """`serve.autoscaling` and `serve.models[].autoscaling`: replicas by load."""

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


class ServedModel(Section):
    """`serve.models[]`: one model, and how clients call it."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9._-]{1,128}$", description="What clients call it: letters, digits, dot, dash, underscore."
    )
    bundle: str = Field(min_length=1, description="Bundle folder.")
    engine: Literal["auto", "torch", "onnxruntime", "tensorrt"] = Field(
        default="auto", description="What runs the network."
    )
    version: str | None = Field(
        default=None, description="The version that the bundle must have. Unset: whichever it has."
    )
    traffic: Annotated[Number, Field(gt=0, le=1)] = Field(
        default=1.0, description="Below 1: a shadow of the model of that name; it sees this share, nobody its verdicts."
    )
    replicas: Positive | None = Field(
        default=None, description="Replicas of its own. Unset, without autoscaling: it shares those of the service."
    )
    autoscaling: Autoscaling = Autoscaling()


class Serve(Section):
    """`serve`: what `changenet serve` reads; its options win."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: Annotated[Integer, Field(ge=1, le=65535)] = Field(default=8000, description="Port to listen on.")
    proxy: Literal["auto", "haproxy", "ray"] = Field(
        default="auto",
        description="What takes the requests in front of the replicas of a Ray that `changenet serve` starts: HAProxy, or Ray "
        "Serve's own proxy, which is slower. `auto`: HAProxy where it is installed, and Ray's for HTTPS.",
    )
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
    tls_certificate: str | None = Field(default=None, description="Certificate (PEM) for HTTPS. Unset: plain HTTP.")
    tls_key: str | None = Field(default=None, description="Private key (PEM) of the certificate.")
    max_request_mb: Positive = Field(default=32, description="Largest request, in MiB.")
    max_picture_megapixels: Annotated[Positive, Field(le=178)] = Field(  # Pillow refuses more
        default=64, description="Largest picture, in megapixels."
    )
    goldens_dir: str | None = Field(
        default=None,
        description="Where registered goldens are kept: a folder or URI that all nodes see. Unset: RESULTS/serve/goldens.",
    )
    golden_cache_mb: Annotated[Integer, Field(ge=0)] = Field(
        default=512, description="Encoded goldens that a replica keeps in memory, in MiB."
    )
    max_batch_size: Positive = Field(
        default=16, description="Pictures, new goldens included, that one call of the engine encodes."
    )
    batch_wait_timeout_s: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.0, description="How long a free engine waits for a batch to fill; 0 takes what is there."
    )
    max_ongoing_requests: Positive | None = Field(
        default=None,
        description="Inspections that a replica holds at once; one more is answered 503. At least a batch of each of its models. "
        "Unset: 64, or as many.",
    )
    replicas: Positive = Field(
        default=1, description="Replicas, without autoscaling; each holds all models that have none of their own."
    )
    autoscaling: Autoscaling = Autoscaling()
    cpus: Positive | None = Field(
        default=None, description="CPUs that a replica reserves and its engines use. Unset: it reserves 1 and uses all."
    )
