"""DeepStream's files say what the network was trained with."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

from changenet.data.lights import PictureLayout
from changenet.errors import EngineError
from changenet.export.deepstream import constants, deepstream_files


def files_of(checkpoint: Any, batch_size: int = -1, **changes: Any) -> dict[str, str]:
    description = replace(checkpoint.description, **changes)
    return deepstream_files(description, onnx_name="model.onnx", batch_size=batch_size)


def test_equal_deviations_are_expressed_exactly() -> None:
    factor, offsets = constants((0.5, 0.4, 0.3), (0.25, 0.25, 0.25))
    values = np.array([0, 128, 255])
    wanted = (values / 255 - (0.5, 0.4, 0.3)) / 0.25
    np.testing.assert_allclose(factor * (values - offsets), wanted, atol=1e-9)


def test_the_files_name_both_inputs_and_the_constants_of_the_checkpoint(checkpoint) -> None:
    files = files_of(checkpoint)
    assert files["labels.txt"] == "PASS;defect\n"
    infer = yaml.safe_load(files["nvdsinfer_config.yaml"])["property"]
    assert infer["onnx-file"] == "model.onnx"
    assert (infer["infer-dims"], infer["network-type"], infer["network-mode"]) == ("3;32;32", 1, 2)
    assert infer["input-tensor-from-meta"] == 1
    for number, sources in enumerate(("0;2;4;6;8;10;12;14", "1;3;5;7;9;11;13;15")):
        config = yaml.safe_load(files[f"nvdspreprocess_config_{number}.yaml"])
        assert config["property"]["tensor-name"] == f"input_{number + 1}"
        assert config["property"]["network-input-shape"] == "8;3;32;32"
        assert config["user-configs"] == {
            "pixel-normalization-factor": pytest.approx(1 / (255 * 0.226), abs=1e-9),
            "offsets": "123.675;116.28;103.53",
        }
        assert config["group-0"]["src-ids"] == sources


def test_what_deepstream_cannot_express_is_a_comment(checkpoint) -> None:
    one_factor = "DeepStream has one factor for all"
    assert one_factor in files_of(checkpoint)["nvdspreprocess_config_0.yaml"]
    network = {"mean": [0.5] * 3, "std": [0.5] * 3, "difference_module": "euclidean"}
    files = files_of(checkpoint, batch_size=2, network={**checkpoint.description.network, **network})
    assert one_factor not in files["nvdspreprocess_config_0.yaml"]
    assert "factor: 0.0078431373\n  offsets: 127.5;127.5;127.5" in files["nvdspreprocess_config_0.yaml"]
    assert "above 0.5, the threshold of\n" in files_of(checkpoint)["nvdsinfer_config.yaml"]
    infer = yaml.safe_load(files["nvdsinfer_config.yaml"])["property"]
    assert (infer["network-type"], infer["batch-size"]) == (100, 2)
    lights = PictureLayout(lights=("Solder", "White"), width=32, height=32)
    files = files_of(checkpoint, layout=lights)
    assert "2 lights one above the other, in this order: Solder, White" in files["nvdspreprocess_config_1.yaml"]
    four = PictureLayout(lights=("A", "B", "C", "D", "E", "F"), concat="grid", grid=(3, 2), width=16, height=16)
    files = files_of(checkpoint, layout=four)
    assert "6 lights in 2 rows of 3, row by row, in this order: A, B, C" in files["nvdspreprocess_config_1.yaml"]


def test_what_the_score_is_depends_on_the_classes(checkpoint) -> None:
    assert "fails when the softmax at index 1 is above 0.5" in files_of(checkpoint)["nvdsinfer_config.yaml"]
    real = files_of(checkpoint, classes=("PASS", "open", "short"))
    assert "fails when 1 minus the softmax at index 0, PASS, is above 0.5" in real["nvdsinfer_config.yaml"]
    assert real["labels.txt"] == "PASS;open;short\n"


def test_a_quantized_graph_runs_in_its_own_precision(checkpoint) -> None:
    given: dict[str, Any] = {"onnx_name": "model.onnx", "precision": "int8"}
    files = deepstream_files(checkpoint.description, **given)
    assert yaml.safe_load(files["nvdsinfer_config.yaml"])["property"]["network-mode"] == 1
    with pytest.raises(EngineError, match="DeepStream has no mode for fp8, only for fp32 and int8"):
        deepstream_files(checkpoint.description, **{**given, "precision": "fp8"})


def test_several_goldens_are_refused(checkpoint) -> None:
    with pytest.raises(EngineError, match="DeepStream feeds one golden, and this network compares with 2"):
        files_of(checkpoint, num_golden=2)
