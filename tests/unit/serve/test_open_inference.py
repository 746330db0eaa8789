"""The Open Inference Protocol, as its clients meet it."""

import json

import numpy as np
import pytest

from changenet.errors import CheckpointError, EngineError
from serve.inspector import FAILURES

URL = "/v2/models/pcb"
HEADER = "inference-header-content-length"


def tensor(name, array, **more):
    return {"name": name, "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist(), **more}


def pair(batch=2):
    test = np.full((batch, 3, 8, 8), 2, np.float32)
    return test, np.zeros_like(test)


def request_of(test, golden, **more):
    return {"inputs": [tensor("input_1", test), tensor("input_2", golden)], **more}


def infer(client, body, **extra):
    return client.post(f"{URL}/infer", json=body, **extra)


def test_models_describe_their_tensors(client):
    facts = client.get(URL).json()
    assert facts["name"] == "pcb" and facts["versions"] == ["0123456789ab"]
    shape = [-1, 3, 8, 8]
    assert facts["inputs"] == [{"name": name, "datatype": "FP32", "shape": shape} for name in ("input_1", "input_2")]
    assert client.get("/v2/models/goldens").json()["inputs"][1]["shape"] == [-1, 3, 3, 8, 8]
    assert client.get(f"{URL}/ready").json() == {"name": "pcb", "ready": True}
    assert client.get(f"{URL}/versions/0123456789ab/ready").status_code == 200
    assert client.get(f"{URL}/versions/1/ready").status_code == 404
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]


def test_numbers_in_numbers_out(client):
    answer = infer(client, request_of(*pair(), id="7"))
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "model_name": "pcb",
        "model_version": "0123456789ab",
        "id": "7",
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [2], "data": [2.0, 2.0]}],
    }


def test_bytes_in_bytes_out(client):
    arrays = pair(3)
    inputs = [
        {"name": name, "shape": [3, 3, 8, 8], "datatype": "FP32", "parameters": {"binary_data_size": array.nbytes}}
        for name, array in zip(("input_1", "input_2"), arrays, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    content = head + b"".join(array.tobytes() for array in arrays)
    answer = client.post(f"{URL}/infer", content=content, headers={HEADER: str(len(head))})
    end = int(answer.headers[HEADER])
    (output,) = json.loads(answer.content[:end])["outputs"]
    assert output["parameters"]["binary_data_size"] == 12
    assert np.frombuffer(answer.content[end:], "<f4").tolist() == [2.0, 2.0, 2.0]
    short = client.post(f"{URL}/infer", content=content[:-4], headers={HEADER: str(len(head))})
    assert short.status_code == 422
    long = client.post(f"{URL}/infer", content=content + b"1234", headers={HEADER: str(len(head))})
    assert long.status_code == 422
    for wrong in ("-1", "x", "", "1" * 5000, "\u00b2".encode("latin-1"), str(len(content) + 1)):
        assert client.post(f"{URL}/infer", content=content, headers={HEADER: wrong}).status_code == 400


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["inputs"].pop(),
        lambda body: body["inputs"][0].update(name="input_3"),
        lambda body: body["inputs"][0].update(datatype="FP16"),
        lambda body: body["inputs"][0].update(shape=[2, 3, 8, 9]),
        lambda body: body["inputs"][0].update(shape=[0, 2**62, 2**62], data=[]),
        lambda body: body["inputs"][0].update(shape=[10**30]),
        lambda body: body["inputs"][0].update(shape=[2, 8, 8, 3]),
        lambda body: body["inputs"][0].update(shape=[2, 3, -8, -8]),
        lambda body: body["inputs"][0].update(data=["x"] * 384),
        lambda body: body["inputs"][0].update(data=[[1, 2], [3]]),
        lambda body: body["inputs"][0].update(data=[1e39] * 384),
        lambda body: body["inputs"][0].update(data=None),
        lambda body: body.update(outputs=[{"name": "logits"}]),
        lambda body: body.update(inputs=[tensor("input_1", pair(0)[0]), tensor("input_2", pair(0)[1])]),
    ],
)
def test_what_does_not_fit_is_a_problem_that_its_clients_can_read(client, change):
    body = request_of(*pair())
    change(body)
    answer = infer(client, body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["error"] == answer.json()["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'{"inputs": 1}', b"\xff"])
def test_what_is_no_request_is_refused(client, body):
    assert client.post(f"{URL}/infer", content=body).status_code == 422


def test_what_the_engine_refuses_is_told(client, models, monkeypatch):
    def refuses(test, golden):
        raise EngineError("takes batches of 1 to 8", fix="Send fewer pairs.")

    monkeypatch.setattr(models["pcb"].inspector.engine, "pair", refuses)
    answer = infer(client, request_of(*pair()))
    assert answer.status_code == 422 and "takes batches of 1 to 8. Send fewer pairs." in answer.json()["error"]


def test_a_bundle_that_changed_on_the_disk_is_told_and_is_no_illness(client, models, monkeypatch):
    def changed(test, golden):
        raise CheckpointError("is not what the manifest says", where="pair.onnx", fix="Export it again.")

    monkeypatch.setattr(models["pcb"].inspector.engine, "pair", changed)
    for _ in range(FAILURES + 1):
        answer = infer(client, request_of(*pair()))
        assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (503, "bundle-changed"), answer.text
    models["pcb"].check_health()


def test_a_compressed_body_is_refused(client):
    assert infer(client, request_of(*pair()), headers={"content-encoding": "gzip"}).status_code == 415


@pytest.mark.parametrize(
    ("method", "path", "limits", "status"),
    [
        ("GET", "/v2/nowhere", {}, 404),
        ("DELETE", "/v2", {}, 405),
        ("GET", "/v2/models/nope", {}, 404),
        ("POST", "/v2/models/pcb/infer", {"request_bytes": 1}, 413),
    ],
)
def test_every_error_has_the_member_that_its_clients_read(client_of, method, path, limits, status):
    answer = client_of(**limits).request(method, path, content=b"{}")
    assert answer.status_code == status
    assert answer.json()["error"] == answer.json()["detail"]


def test_elsewhere_errors_have_no_such_member(client):
    assert "error" not in client.get("/v2x").json()
