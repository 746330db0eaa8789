"""What a service is told when it is deployed: its models and its limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

NAME_PATTERN = r"^[A-Za-z0-9._-]{1,128}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSettings(_Settings):
    """One model: the name that clients use and the bundle behind it."""

    name: Name
    bundle: str = Field(min_length=1, description="Bundle folder, as the replicas see it.")
    engine: str = Field(default="auto", description="auto, torch or onnxruntime.")


class Limits(_Settings):
    """What one replica takes on. Memory for bodies is at most `inspections` times `request_bytes`."""

    request_bytes: int = Field(default=32 << 20, gt=0, description="Largest body of a request.")
    picture_pixels: int = Field(default=64_000_000, gt=0, description="Width times height of one uploaded picture.")
    inspections: int = Field(default=64, gt=0, description="Inspections at the same time; one more is answered 503.")
    decoders: int = Field(default=2, gt=0, description="Threads that decode pictures.")
    request_seconds: float = Field(default=60.0, gt=0, description="A request, slow uploads included, ends after this.")


class ServiceSettings(_Settings):
    """A whole service."""

    models: tuple[ModelSettings, ...] = Field(min_length=1)
    limits: Limits = Limits()
    encryption_key: SecretStr | None = Field(default=None, description="Opens encrypted bundles.")
    trusted_keys: tuple[str, ...] = Field(
        default=(), description="Public keys, as PEM text or files of the replicas; one must have signed each bundle."
    )
    keys_file: str | None = Field(
        default=None,
        description="File of API keys, as the replicas see it. None: whoever reaches the service may use it.",
    )
