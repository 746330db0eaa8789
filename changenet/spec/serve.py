"""`serve`: our own keys for the HTTP service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from changenet.spec.section import Integer, Positive, Section


class ServedModel(Section):
    """`serve.models[]`: one model, and how clients call it."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9._-]{1,128}$", description="What clients call it: letters, digits, dot, dash, underscore."
    )
    bundle: str = Field(min_length=1, description="Bundle folder.")
    engine: Literal["auto", "torch", "onnxruntime", "tensorrt"] = Field(
        default="auto", description="What runs the network."
    )


class Serve(Section):
    """`serve`: what `changenet serve` reads; its options win."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: Annotated[Integer, Field(ge=1, le=65535)] = Field(default=8000, description="Port to listen on.")
    models: tuple[ServedModel, ...] = Field(default=(), description="What is served; the names must differ.")
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
