"""What must fit together in the section `quantize`, and what its layer rules say that nobody does."""

from __future__ import annotations

from collections.abc import Iterator

from changenet.spec.experiment import Experiment
from changenet.spec.finding import Finding, Notice
from changenet.spec.keys import DATA, plain


def check_quantize(experiment: Experiment) -> Iterator[Finding]:
    """Yield every contradiction of the section."""
    quantize = experiment.quantize
    fitting = "weight_only_ptq" if quantize.backend == "torchao" else "static_ptq"
    if quantize.mode not in (None, fitting):
        yield Finding(
            ("quantize.mode", "quantize.backend"),
            f"is {quantize.mode!r}, but quantize.backend is {quantize.backend!r}",
            f"Use {fitting!r}, or leave the mode out.",
        )
    data = experiment.dataset.classify.quant_calibration_dataset
    if data.csv_path and not data.images_dir:
        yield Finding((f"{DATA}.quant_calibration_dataset.images_dir",), "not given", "Name it, beside csv_path.")
    for number, rule in enumerate(quantize.layers):
        key = f"quantize.layers[{number}]"
        tensors = {"weights": rule.weights, "activations": rule.activations}
        given = {name: tensor.dtype for name, tensor in tensors.items() if tensor is not None}
        if fitting == "static_ptq" and len(set(given.values())) > 1:
            what = "has one number format for weights and another for activations"
            yield Finding((key,), what, f"Give both the same: {quantize.backend} quantizes whole layers.")
        for name, dtype in given.items():
            if quantize.backend == "onnxruntime" and dtype not in ("int8", "native"):
                what = f"is {dtype!r}, but quantize.backend is 'onnxruntime'"
                yield Finding((f"{key}.{name}.dtype",), what, "Use 'int8'.")
    allowed = {
        "onnxruntime": ("minmax", "max", "entropy"),
        "modelopt.pytorch": ("minmax", "max", "entropy"),
        "modelopt.onnx": ("minmax", "max", "entropy", "awq_clip", "awq_lite", "awq_full", "rtn_dq"),
    }
    if quantize.algorithm not in allowed.get(quantize.backend, (quantize.algorithm,)):
        names = ", ".join(allowed[quantize.backend])
        yield Finding(
            ("quantize.algorithm", "quantize.backend"),
            f"is {quantize.algorithm!r}, but quantize.backend is {quantize.backend!r}",
            f"Use one of {names}.",
        )


def unused_in_layer_rules(experiment: Experiment) -> Iterator[Notice]:
    """Yield what the layer rules of a quantization say and nobody does."""
    for number, rule in enumerate(experiment.quantize.layers):
        tensors = {"weights": rule.weights, "activations": rule.activations}
        for name, tensor in tensors.items():
            key = f"quantize.layers[{number}].{name}"
            if tensor is None:
                continue
            if name == "activations" and experiment.quantize.backend == "torchao":
                yield Notice(key, "no effect: torchao quantizes weights only", {key: None})
                continue
            if tensor.dtype == "fp8_e5m2":
                message = "'fp8_e5m2' is read as 'fp8_e4m3fn', which is more accurate for weights"
                yield Notice(f"{key}.dtype", message, {f"{key}.dtype": "fp8_e4m3fn"})
            for option in sorted(tensor.model_fields_set - {"dtype"}):
                if plain(getattr(tensor, option)) not in (None, {}):
                    message = f"no effect: {experiment.quantize.backend} has its own way to scale"
                    yield Notice(f"{key}.{option}", message, {f"{key}.{option}": None})
