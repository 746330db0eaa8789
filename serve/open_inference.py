"""The Open Inference Protocol (KServe v2) over the pair graph: normalised pictures in, its raw output out.

Generic clients speak it. They preprocess and decide by themselves; `inspect` does both.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from numpy.typing import NDArray

import changenet
from serve.access import open_to
from serve.inspector import ServedModel
from serve.keys import Scope
from serve.problems import HttpError
from serve.schemas import ModelReady, ServerMetadata, TensorMetadata, TensorModel
from serve.service import InService, Served, keeps
from serve.tensors import DATATYPE, HEADER_LENGTH, Inference, InferenceRequest, read_inference, write_inference

INPUTS = ("input_1", "input_2")  # test, golden
OUTPUT = "output"

router = APIRouter(prefix="/v2")


async def _of_version(model: Served, version: str | None = None) -> ServedModel:
    if version is not None and version != model.version:
        raise HttpError(404, "no-such-model", f"{model.name!r} has the version {model.version!r}, not {version!r}.")
    return model


OfVersion = Annotated[ServedModel, Depends(_of_version)]

_INFERENCE_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": InferenceRequest.model_json_schema()}},
    }
}


@router.get("")
@open_to(Scope.INSPECT)
async def server_metadata() -> ServerMetadata:
    """Say what serves here."""
    return ServerMetadata(name="changenet", version=changenet.__version__, extensions=["binary_tensor_data"])


@router.get("/models/{model}")
@router.get("/models/{model}/versions/{version}")
@open_to(Scope.INSPECT)
async def model_metadata(model: OfVersion) -> TensorModel:
    """Describe the tensors of a model's pair graph; -1 is the number of pairs."""
    tensors = [TensorMetadata(name=name, datatype=DATATYPE, shape=_shape(model, name)) for name in INPUTS]
    description = model.inspector.description
    euclidean = description.difference_module == "euclidean"
    output = [-1] if euclidean else [-1, int(description.network.get("num_classes", 2))]
    return TensorModel(
        name=model.name,
        versions=[model.version],
        platform=f"changenet_{model.inspector.engine_name}",
        inputs=tensors,
        outputs=[TensorMetadata(name=OUTPUT, datatype=DATATYPE, shape=output)],
    )


@router.get("/models/{model}/ready")
@router.get("/models/{model}/versions/{version}/ready")
@open_to(Scope.INSPECT)
async def model_ready(model: OfVersion) -> ModelReady:
    """Answer when the model is loaded."""
    return ModelReady(name=model.name)


@router.post("/models/{model}/infer", openapi_extra=_INFERENCE_BODY)
@router.post("/models/{model}/versions/{version}/infer", openapi_extra=_INFERENCE_BODY)
@open_to(Scope.INSPECT)
@keeps(lambda limits, body: 8 * (limits.request_bytes if body is None else body))  # numbers in JSON grow that much
async def infer(model: OfVersion, service: InService, request: Request) -> Response:
    """Run the pair graph on normalised pictures, float32 NCHW."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HttpError(415, "wrong-tensors", "Send the body as it is, not compressed.")
    async with service.hold(request):
        body = await request.body()
        inference = await asyncio.to_thread(read_inference, body, request.headers.get(HEADER_LENGTH))
        test, golden = _pair(model, inference)
        output = await model.outputs(test, golden)
    answer = {"model_name": model.name, "model_version": model.version}
    if inference.id is not None:
        answer["id"] = inference.id
    content, header_length = write_inference(answer, OUTPUT, output, binary=inference.binary)
    if not inference.binary:
        return Response(content, media_type="application/json")
    headers = {HEADER_LENGTH: str(header_length)}
    return Response(content, media_type="application/octet-stream", headers=headers)


def _pair(model: ServedModel, inference: Inference) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if sorted(inference.tensors) != sorted(INPUTS):
        raise HttpError(422, "wrong-tensors", f"The inputs must be {' and '.join(INPUTS)}.")
    if set(inference.outputs) - {OUTPUT}:
        raise HttpError(422, "wrong-tensors", f"The only output is {OUTPUT!r}.")
    test, golden = (inference.tensors[name] for name in INPUTS)
    for name, array in inference.tensors.items():
        wanted = _shape(model, name)
        batch = len(test) if wanted[0] == -1 else wanted[0]
        if not len(array) or list(array.shape) != [batch, *wanted[1:]]:
            detail = f"The input {name!r} has the shape {list(array.shape)}, not {wanted}, with one pair or more."
            raise HttpError(422, "wrong-tensors", detail)
    return test, golden


def _shape(model: ServedModel, name: str) -> list[int]:
    description = model.inspector.description
    bundle = model.inspector.bundle
    batch = bundle.manifest.batch_size if bundle is not None else -1
    goldens = [description.num_golden] if name == INPUTS[1] and description.num_golden > 1 else []
    return [batch, *goldens, *description.layout.shape]
