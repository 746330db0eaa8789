"""Verbs that make other forms of a model, or list networks."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_jobs.cli.group import finish
from ray_jobs.cli.options import Overrides, Spec

app = typer.Typer()


@app.command()
def export(
    spec: Spec,
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier model.onnx and bundle.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also a quantized network that decides otherwise too often.")
    ] = False,
) -> None:
    """Export a checkpoint to ONNX and to a bundle that serves, and check that both agree with it."""
    from ray_jobs import export as verb

    finish(verb.run(spec, overrides or (), overwrite=overwrite, force=force))


@app.command()
def quantize(spec: Spec, overrides: Overrides = None) -> None:
    """Put layers of a trained network into 8 bits, and hold the result against it: comparison.json.

    quantize.layers says which layers: patterns for names or classes, later
    rules win, and nothing is quantized without one. Backend torchao takes
    weights for PyTorch, onnxruntime whole layers for the CPU, modelopt whole
    layers for TensorRT and ONNX Runtime. What they write becomes a bundle with
    export.

    changenet quantize -e spec.yaml quantize.model_path=results/train/model_best.pth
    quantize.backend=onnxruntime 'quantize.layers=[{module_name: "*", weights: {dtype: int8}}]'
    """
    from ray_jobs import quantize as verb

    finish(verb.run(spec, overrides or ()))


@app.command(name="gen_trt_engine")
def gen_trt_engine(
    spec: Spec,
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier engines.")] = False,
) -> None:
    """Build TensorRT engines of an export, for the GPU of this machine.

    From a bundle, engines of every graph go into the bundle, and one of the
    whole pair to gen_trt_engine.trt_engine, which DeepStream, Triton and
    trtexec read too. From an ONNX file alone, there is the latter only.

    With the package tensorrt-rtx, compute_capability builds for an RTX GPU
    that is elsewhere.

    changenet gen_trt_engine -e spec.yaml gen_trt_engine.onnx_file=results/export/bundle
    gen_trt_engine.tensorrt.data_type=fp16
    """
    from ray_jobs import gen_trt_engine as verb

    finish(verb.run(spec, overrides or (), overwrite=overwrite))


@app.command()
def convert(
    source: Annotated[str, typer.Option("--from", help="A TAO checkpoint: .pth or .tlt, not encrypted by TAO.")],
    spec: Spec,
    target: Annotated[str, typer.Option("--to", help="The checkpoint to write.")],
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
) -> None:
    """Turn a TAO checkpoint into one that describes itself.

    TAO's files do not say what network their tensors belong to. The spec of
    the training says it: encoder, difference module, lights, sizes,
    eval_margin. With that spec every action reads TAO's file as it is; the
    converted file needs none, so changenet.load works on it alone.

    Nothing inside the file is run. Tensors that do not fit, and keys of the
    spec that contradict the one inside the file, are listed, and nothing is
    written.

    changenet convert --from model_epoch_029.pth -e tao.yaml --to pcb.pth
    """
    from ray_jobs import convert as verb

    finish(verb.run(source, spec, target, overrides or (), overwrite=overwrite))


@app.command()
def models(
    pattern: Annotated[
        str | None, typer.Argument(help="Part of a name; timm/PART (or timm/PAT*TERN) searches timm's.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the encoders (model.backbone.type): size, pictures they take, licence of the weights, which to choose."""
    from ray_jobs import models as verb

    finish(verb.run(pattern, json_output=json))
