"""`evaluate`, `inference`, `export`, `gen_trt_engine`: what the actions after training read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from changenet.spec.section import BatchSize, Integer, Number, Positive, Section
from changenet.spec.train import GpuIds
from changenet.spec.workers import RayWorkers

Size = Positive | None
GpuId = Annotated[Integer, Field(ge=0)]
# YAML reads 8.9 as a number.
Capability = Annotated[
    str, BeforeValidator(lambda value: str(value) if isinstance(value, float) else value), Field(pattern=r"^\d+\.\d$")
]


class Scoring(Section):
    """What `evaluate` and `inference` share."""

    checkpoint: str | None = Field(default=None, description="A checkpoint (ours or TAO's), or a bundle folder.")
    trt_engine: str | None = Field(
        default=None, description="What gen_trt_engine wrote; used without a checkpoint, or with engine: tensorrt."
    )
    num_gpus: Positive = Field(default=1, description="GPUs a node; the CPU is used where there are none.")
    gpu_ids: GpuIds = Field(default=(0,), description="GPUs a node, counted: CUDA_VISIBLE_DEVICES chooses which.")
    num_nodes: Positive = Field(default=1, description="Machines of the cluster to use.")
    results_dir: str | None = Field(
        default=None, description="Output folder of this action. Unset: results_dir/ACTION."
    )
    batch_size: BatchSize = Field(default=-1, description="Pairs a batch; -1 = dataset.classify.batch_size.")
    vis_after_n_batches: Positive = Field(default=16, description="Segmentation only: batches between pictures.")
    is_quantized: bool = Field(default=False, description="The checkpoint is a quantized one.")
    engine: Literal["auto", "torch", "onnxruntime", "tensorrt"] = Field(
        default="auto", description="What runs the network."
    )
    ray: RayWorkers = RayWorkers()


def runs_engine_file(section: Scoring) -> bool:
    """Say whether an action runs its `trt_engine` rather than its `checkpoint`.

    TAO's specs name both, and have one program for each.
    """
    return bool(section.trt_engine) and (section.engine == "tensorrt" or not section.checkpoint)


class ThresholdChoice(Section):
    """`evaluate.threshold`: what turns a score into a decision (not in TAO)."""

    policy: Literal["margin", "recall"] | None = Field(
        default=None,
        description="margin = eval_margin; recall = fitted on validation. Unset: margin if eval_margin is given, else recall.",
    )
    target: Annotated[Number, Field(gt=0, le=1)] | None = Field(
        default=None, description="Recall that policy recall must reach. Unset: 1.0, every defect found."
    )


class Evaluate(Scoring):
    """`evaluate`: the test set."""

    threshold: ThresholdChoice = ThresholdChoice()


class Inference(Scoring):
    """`inference`: the infer set."""


class Export(Section):
    """`export`: ONNX and the bundle."""

    checkpoint: str | None = Field(default=None, description="The checkpoint to export, ours or TAO's.")
    onnx_file: str | None = Field(
        default=None, description="Where the ONNX file goes. Unset: results_dir/export/model.onnx."
    )
    opset_version: Annotated[Integer, Field(ge=1, le=25)] = Field(
        default=18, description="ONNX opset; below 18 it is raised to 18."
    )
    input_channel: Literal[3] = Field(default=3, description="Channels of a picture.")
    input_width: Size = Field(default=None, description="Width of all lights together. Unset: the checkpoint's.")
    input_height: Size = Field(default=None, description="Height of all lights together. Unset: the checkpoint's.")
    batch_size: BatchSize = Field(default=-1, description="Pairs a batch; -1 = any number.")
    gpu_id: GpuId = Field(default=0, description="Export runs on the CPU.")
    on_cpu: bool = Field(default=False, description="Export always runs on the CPU.")
    verbose: bool = Field(default=False, description="Print the graph.")
    serialize_nvdsinfer: bool = Field(default=False, description="Write DeepStream configuration files.")
    format: Literal["onnx", "xdl"] = Field(default="onnx", description="File format.")
    results_dir: str | None = Field(
        default=None, description="Output folder of this action. Unset: results_dir/export."
    )


class Calibration(Section):
    """`gen_trt_engine.tensorrt.calibration`."""

    cal_image_dir: tuple[str, ...] = Field(default=(), description="Folders of calibration pictures.")
    cal_cache_file: str | None = Field(default=None, description="Calibration cache.")
    cal_batch_size: Positive = Field(default=1, description="Pictures a calibration batch.")
    cal_batches: Positive = Field(default=1, description="Calibration batches.")


class TensorRt(Section):
    """`gen_trt_engine.tensorrt`."""

    data_type: Literal["fp32", "fp16", "bf16", "int8", "fp8", "FP32", "FP16", "BF16", "INT8", "FP8"] = Field(
        default="fp32",
        description="Precision; int8 and fp8 for quantized graphs only, which fp32 leaves as they are.",
    )
    workspace_size: Positive = Field(default=1024, description="Workspace in MB.")
    min_batch_size: Positive = Field(default=1, description="Smallest batch.")
    opt_batch_size: Positive = Field(default=1, description="Batch the engine is tuned for.")
    max_batch_size: Positive = Field(default=8, description="Largest batch.")
    layers_precision: tuple[str, ...] = Field(
        default=(), description="LAYER:PRECISION for single layers (fp32, fp16, bf16); * stands for any text."
    )
    compute_capability: Capability | None = Field(
        default=None,
        description="Build for a GPU that is elsewhere, such as 8.9, with the package tensorrt-rtx. Unset: for gpu_id.",
    )
    calibration: Calibration = Calibration()


class GenTrtEngine(Section):
    """`gen_trt_engine`: a TensorRT engine from the ONNX file."""

    onnx_file: str | None = Field(
        default=None, description="A bundle folder or an ONNX file. Unset: results_dir/export/bundle."
    )
    trt_engine: str | None = Field(
        default=None, description="Where the engine goes. Unset: results_dir/gen_trt_engine/model.engine."
    )
    gpu_id: GpuId = Field(default=0, description="The GPU to build on.")
    batch_size: BatchSize = Field(
        default=-1, description="Pairs a batch; -1 = tensorrt.min_batch_size to max_batch_size."
    )
    verbose: bool = Field(default=False, description="Tell more while building.")
    timing_cache: str | None = Field(
        default=None, description="File that makes later builds quicker; made by the first."
    )
    results_dir: str | None = Field(
        default=None, description="Output folder of this action. Unset: results_dir/gen_trt_engine."
    )
    input_channel: Positive = Field(default=3, description="The ONNX file's is used.")
    input_width: Positive = Field(default=256, description="The ONNX file's is used.")
    input_height: Positive = Field(default=256, description="The ONNX file's is used.")
    opset_version: Positive = Field(default=17, description="The ONNX file's is used.")
    tensorrt: TensorRt = TensorRt()
