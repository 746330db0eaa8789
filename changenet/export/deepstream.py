"""The configuration files of DeepStream for an exported pair graph: labels, `nvinfer`, and one `nvdspreprocess` an input."""

from __future__ import annotations

from collections.abc import Sequence

from changenet.description import BINARY_CLASSES, PASS, ModelDescription
from changenet.errors import EngineError

LABELS = "labels.txt"
INFER = "nvdsinfer_config.yaml"
PREPROCESS = ("nvdspreprocess_config_0.yaml", "nvdspreprocess_config_1.yaml")
_SOURCES = 8  # pictures of each kind in a batch; even sources are tests, odd ones goldens
_MODES = {"fp32": 2, "int8": 1}  # floats are rounded to 16 bits; a quantized graph has its ranges inside
_LIBRARY = "/opt/nvidia/deepstream/deepstream/lib/gst-plugins/libcustom2d_preprocess.so"


def deepstream_files(
    description: ModelDescription, *, onnx_name: str, batch_size: int = -1, precision: str = "fp32"
) -> dict[str, str]:
    """Return file name to text.

    Args:
        description: Of the network.
        onnx_name: The ONNX file, which lies beside the files.
        batch_size: Of the ONNX file; -1 = any.
        precision: Of the ONNX file.

    Raises:
        EngineError: The network compares with several goldens, which DeepStream cannot feed, or is of a precision that it does
            not know.
    """
    what = ""
    if description.num_golden > 1:
        what = f"DeepStream feeds one golden, and this network compares with {description.num_golden}"
    elif precision not in _MODES:
        what = f"DeepStream has no mode for {precision}, only for {' and '.join(_MODES)}"
    if what:
        raise EngineError(what, where="export.serialize_nvdsinfer", fix="Leave the key out.")
    batch = batch_size if batch_size > 0 else _SOURCES
    files = {
        LABELS: ";".join(description.classes) + "\n",
        INFER: _infer(description, onnx_name, batch, mode=_MODES[precision]),
    }
    for number, name in enumerate(PREPROCESS):
        files[name] = _preprocess(description, number, batch)
    return files


def constants(mean: Sequence[float], std: Sequence[float]) -> tuple[float, tuple[float, ...]]:
    """Return DeepStream's factor and offsets: it computes factor * (value - offset) of values 0-255.

    It has one factor for all channels; with three different deviations it is the one of their mean.

    >>> constants((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    (0.00784313725490196, (127.5, 127.5, 127.5))
    """
    return 1 / (255 * sum(std) / len(std)), tuple(255 * value for value in mean)


def _infer(description: ModelDescription, onnx_name: str, batch: int, *, mode: int) -> str:
    threshold = description.threshold.value
    _, height, width = description.layout.shape
    factor, offsets = _normalisation(description)
    if description.difference_module == "learnable":
        real = description.classes != BINARY_CLASSES
        score = f"1 minus the softmax at index 0, {PASS}," if real else "the softmax at index 1"
        meaning = f"""\
# The output is logits, without softmax. A part fails when {score} is above {threshold!r}, the threshold of
# this network: DeepStream's own parser takes the larger logit, so read the tensor (output-tensor-meta), or name a parser
# of logits (parse-classifier-func-name, custom-lib-path)."""
        kind = "network-type: 1\n  classifier-threshold: 0.5"
    else:
        meaning = f"""\
# The output is a distance. A part fails when it is above {threshold!r}, the threshold of this network: DeepStream has no
# parser for that, so read the tensor (output-tensor-meta)."""
        kind = "network-type: 100"
    return f"""\
# gst-nvinfer for a pair of pictures: input_1 is the test, input_2 the golden, both from the tensors of nvdspreprocess.
{meaning}
property:
  gpu-id: 0
  gie-unique-id: 1
  process-mode: 1
  onnx-file: {onnx_name}
  labelfile-path: {LABELS}
  batch-size: {batch}
  infer-dims: 3;{height};{width}
  model-color-format: 0
  # 0 = fp32, 1 = int8, 2 = fp16
  network-mode: {mode}
  {kind}
  input-tensor-from-meta: 1
  output-tensor-meta: 1
  net-scale-factor: {factor}
  offsets: {offsets}
"""


def _preprocess(description: ModelDescription, number: int, batch: int) -> str:
    _, height, width = description.layout.shape
    factor, offsets = _normalisation(description)
    std = description.network["std"]
    warning = ""
    if len(set(std)) > 1:
        share = max(abs(sum(std) / len(std) / each - 1) for each in std)
        warning = f"""\
# The network was trained with a deviation a channel, {list(std)}, and DeepStream has one factor for all:
# the one below is that of their mean, off by up to {share:.0%}. Scores differ a little from those of other engines. For
# equal ones train with three equal values of dataset.classify.augmentation_config.std, or scale in a library of your own.
"""
    layout = description.layout
    joined = ""
    if len(layout.lights) > 1:
        columns, rows = layout.tiles
        place = "one above the other" if columns == 1 else f"in {rows} rows of {columns}, row by row"
        joined = f"# A picture is {len(layout.lights)} lights {place}, in this order: {', '.join(layout.lights)}.\n"
    return f"""\
# gst-nvdspreprocess for input_{number + 1}, the {("test", "golden")[number]}: factor * (value - offset) of values 0 to 255, RGB.
{joined}{warning}\
property:
  enable: 1
  unique-id: {number + 1}
  gpu-id: 0
  target-unique-ids: 1
  process-on-frame: 1
  network-input-order: 0
  network-input-shape: {batch};3;{height};{width}
  processing-width: {width}
  processing-height: {height}
  network-color-format: 0
  tensor-data-type: 0
  tensor-name: input_{number + 1}
  maintain-aspect-ratio: 0
  scaling-buf-pool-size: 6
  tensor-buf-pool-size: 6
  scaling-pool-memory-type: 0
  scaling-pool-compute-hw: 0
  scaling-filter: 1
  custom-lib-path: {_LIBRARY}
  custom-tensor-preparation-function: CustomTensorPreparation

user-configs:
  pixel-normalization-factor: {factor}
  offsets: {offsets}

group-0:
  src-ids: {";".join(str(2 * source + number) for source in range(_SOURCES))}
  process-on-roi: 0
  custom-input-transformation-function: CustomAsyncTransformation
"""


def _normalisation(description: ModelDescription) -> tuple[str, str]:
    factor, offsets = constants(description.network["mean"], description.network["std"])
    return f"{factor:.10f}", ";".join(f"{offset:.6g}" for offset in offsets)
