"""`serve`: our own keys for the HTTP service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from changenet.spec.section import FrozenMapping, Integer, Positive, Section


class Serve(Section):
    """`serve`: what `changenet serve` reads; its options win."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: Annotated[Integer, Field(ge=1, le=65535)] = Field(default=8000, description="Port to listen on.")
    models: Annotated[dict[str, str], AfterValidator(FrozenMapping)] = Field(
        default_factory=FrozenMapping, description="Model name -> bundle folder."
    )
    engine: Literal["auto", "torch", "onnxruntime", "tensorrt"] = Field(
        default="auto", description="What runs the network."
    )
    max_request_mb: Positive = Field(default=32, description="Largest request, in MiB.")
    max_picture_megapixels: Positive = Field(default=64, description="Largest picture, in megapixels.")
