"""Tensors of the Open Inference Protocol: as numbers in JSON, or as bytes behind it (the binary tensor data extension)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from serve.heads import number_in
from serve.problems import HttpError

HEADER_LENGTH = "Inference-Header-Content-Length"
DATATYPE = "FP32"
_LITTLE_ENDIAN = np.dtype("<f4")


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class InputParameters(_Part):
    """Parameters of one input."""

    binary_data_size: NonNegativeInt | None = None


class InputTensor(_Part):
    """One input of a request."""

    name: str
    shape: list[NonNegativeInt] = Field(min_length=1, max_length=8)
    datatype: Literal["FP32"]
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(_Part):
    """Parameters of one output."""

    binary_data: bool | None = None


class RequestedOutput(_Part):
    """One output that a request asks for."""

    name: str
    parameters: OutputParameters = OutputParameters()


class RequestParameters(_Part):
    """Parameters of a request."""

    binary_data_output: bool = False


class InferenceRequest(_Part):
    """The JSON of a request."""

    id: str | None = None
    inputs: list[InputTensor]
    outputs: list[RequestedOutput] = []
    parameters: RequestParameters = RequestParameters()


@dataclass(frozen=True)
class Inference:
    """A request, read.

    Args:
        id: Comes back with the answer, if given.
        tensors: float32, by name.
        outputs: Names that are asked for; empty for all.
        binary: Whether the output goes back as bytes.
    """

    id: str | None
    tensors: dict[str, NDArray[np.float32]]
    outputs: tuple[str, ...]
    binary: bool


def read_inference(body: bytes, header_length: str | None) -> Inference:
    """Read a request.

    Args:
        body: JSON, then the bytes of its binary tensors in their order.
        header_length: Bytes of the JSON, as the header says; None where the body is JSON alone.

    Raises:
        HttpError: 400 or 422, with what does not fit.
    """
    end = number_in(header_length) if header_length is not None else len(body)
    if end is None or end > len(body):
        raise HttpError(400, "wrong-tensors", f"{HEADER_LENGTH} is no length within the body.")
    try:
        request = InferenceRequest.model_validate_json(body[:end])
    except ValidationError as error:
        found = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise HttpError(422, "wrong-tensors", "; ".join(found), problems=found) from error
    rest = memoryview(body)[end:]
    tensors = {}
    for tensor in request.inputs:
        size = tensor.parameters.binary_data_size
        if (size is None) == (tensor.data is None):
            raise _wrong(tensor, "needs either data or binary_data_size")
        if size is None:
            tensors[tensor.name] = _from_numbers(tensor)
        else:
            tensors[tensor.name] = _from_bytes(tensor, rest[:size])
            rest = rest[size:]
    if len(rest):
        raise HttpError(422, "wrong-tensors", f"{len(rest)} bytes behind the last tensor.")
    wanted = [output.parameters.binary_data for output in request.outputs]
    binary = request.parameters.binary_data_output if not wanted or wanted[0] is None else wanted[0]
    return Inference(request.id, tensors, tuple(output.name for output in request.outputs), binary)


def write_inference(
    answer: dict[str, Any], name: str, output: NDArray[np.float32], *, binary: bool
) -> tuple[bytes, int]:
    """Return the body of an answer, and the bytes of its JSON.

    Raises:
        HttpError: 422, the output holds what JSON has no number for.
    """
    tensor: dict[str, Any] = {"name": name, "datatype": DATATYPE, "shape": list(output.shape)}
    content = b""
    if binary:
        content = output.astype(_LITTLE_ENDIAN).tobytes()
        tensor["parameters"] = {"binary_data_size": len(content)}
    else:
        if not np.isfinite(output).all():
            raise HttpError(422, "wrong-tensors", "The output is not finite; are the inputs normalised pictures?")
        tensor["data"] = output.ravel().tolist()
    header = json.dumps(answer | {"outputs": [tensor]}).encode()
    return header + content, len(header)


def _from_numbers(tensor: InputTensor) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):
            array = np.array(tensor.data, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong(tensor, "data must be numbers") from error
    return _shaped(tensor, array)


def _from_bytes(tensor: InputTensor, content: memoryview) -> NDArray[np.float32]:
    if len(content) != tensor.parameters.binary_data_size or len(content) % _LITTLE_ENDIAN.itemsize:
        raise _wrong(tensor, f"{len(content)} bytes do not hold it")
    return _shaped(tensor, np.frombuffer(content, _LITTLE_ENDIAN).astype(np.float32))


def _shaped(tensor: InputTensor, array: NDArray[np.float32]) -> NDArray[np.float32]:
    try:
        return array.reshape(tensor.shape)
    except (ValueError, OverflowError) as error:
        raise _wrong(tensor, f"{array.size} numbers for the shape {tensor.shape}") from error


def _wrong(tensor: InputTensor, what: str) -> HttpError:
    return HttpError(422, "wrong-tensors", f"The input {tensor.name!r}: {what}.")
