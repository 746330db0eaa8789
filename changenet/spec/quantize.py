"""`quantize`: which layers of a trained network become smaller numbers, and by which package."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from changenet.spec.section import FrozenMapping, Integer, Number, Options, Section

Backend = Literal["torchao", "onnxruntime", "modelopt.pytorch", "modelopt.onnx"]
Mode = Literal["weight_only_ptq", "static_ptq"]
Algorithm = Literal["minmax", "max", "entropy", "awq_clip", "awq_lite", "awq_full", "rtn_dq"]


class TensorRule(Section):
    """How one tensor of a layer is quantized."""

    dtype: Literal["int8", "fp8_e4m3fn", "fp8_e5m2", "native"] = Field(
        default="int8", description="Number format; native = left alone."
    )
    observer_or_fake_quant: str | None = Field(default=None, description="Observer.")
    quant_axis: Integer | None = Field(
        default=None, description="Axis of the scales; weights always have a scale a channel."
    )
    observer_or_fake_quant_kwargs: Options = Field(default_factory=FrozenMapping, description="Its options.")


class LayerRule(Section):
    """`quantize.layers[]`: a pattern and what happens to the layers it matches."""

    module_name: str = Field(description="Pattern for the name or the class of a module.")
    weights: TensorRule | None = Field(default=None, description="Rule of the weights.")
    activations: TensorRule | None = Field(default=None, description="Rule of the activations.")


class Quantize(Section):
    """`quantize`: post-training quantization."""

    null_is_unset: ClassVar[frozenset[str]] = frozenset({"model_path", "results_dir"})

    backend: Backend = Field(
        default="torchao",
        description="The package that quantizes. changenet quantize refuses modelopt.onnx: it cannot run beside this program.",
    )
    mode: Mode | None = Field(
        default=None, description="weight_only_ptq (torchao) or static_ptq (the others). Unset: what fits the backend."
    )
    algorithm: Algorithm = Field(default="minmax", description="How ranges are found; torchao ignores it.")
    layers: tuple[LayerRule, ...] = Field(
        default=(), description="Rules; later ones win; a layer without a rule stays as it is."
    )
    skip_names: tuple[str, ...] = Field(default=(), description="Patterns of layers that stay as they are.")
    model_path: str = Field(default="", description="The checkpoint to quantize, ours or TAO's.")
    results_dir: str = Field(default="", description="Output folder of this action. Unset: results_dir/quantize.")
    backend_kwargs: Options = Field(default_factory=FrozenMapping, description="Options for the backend.")
    min_agreement: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.99, description="Share of decisions that must stay as they are, or export refuses the result."
    )
    device: str = Field(
        default="cuda", pattern=r"^(cpu|trt|cuda(:\d+)?)$", description="Where it runs: cpu, cuda, cuda:N or trt."
    )
