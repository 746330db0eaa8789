"""Whatever is sent, the service answers, and never with a crash."""

import asyncio
import json
import time

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from serve.keys import KeyRing, add_key
from serve.model_state import StateFiles
from serve.settings import Source
from serve.tensors import HEADER_LENGTH

MIME = "multipart/form-data; boundary=edge"


def answered(response):
    """No crash, and every error in the one shape of errors."""
    headers = {name: [value] if isinstance(value, str) else list(value) for name, value in response.headers.items()}
    assert response.status_code < 500 or response.status_code == 503, response.text
    assert headers["x-content-type-options"] == ["nosniff"]
    if response.status_code >= 400:
        assert headers["content-type"] == ["application/problem+json"]
        assert response.json()["status"] == response.status_code


@pytest.fixture
def keys(tmp_path):
    """What a client may write behind `Authorization`."""
    file = str(tmp_path / "keys.txt")
    given = [add_key(file, "ops", admin=True), add_key(file, "line"), "cn_wrong"]
    return file, [f"Bearer {key}" for key in given]


@pytest.fixture
def whole(app_of, models, load, keys, tmp_path):
    """A service that can do all there is: bundles to swap, a registry, keys, names of its own."""
    files = StateFiles(str(tmp_path / "state"))
    served = {**models, "pcb": load("pcb", Source(bundle="/good"))}
    app = app_of(*served.values(), load=load, files=files, keys=KeyRing(keys[0]))
    return TestClient(app, raise_server_exceptions=False)


SERVED = {
    "model": ["pcb", "pcb", "lights", "goldens"],
    "golden_id": ["R1", "R2"],
    "version": ["good", "strict", "0123456789ab"],
}
BUNDLES = ["/good", "/strict", "/broken"]
OPERATIONS = 22
CHANGES = (
    ("POST", "swap", {"bundle": "/strict"}),
    ("POST", "rollback", None),
    ("PUT", "shadow", {"bundle": "/strict", "traffic": 0.5}),
    ("POST", "swap", {"bundle": "/strict"}),
)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_request_of_the_interface_is_answered(whole, keys, mode):
    authorised = {"Authorization": keys[1][0]}
    document = whole.get("/openapi.json", headers=authorised).json()
    described = schemathesis.openapi.from_dict(document)
    described.app = whole.app
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) == OPERATIONS
    # What changes a model is no dead end: there is something to swap, to go back to, and to look at.
    for method, change, body in CHANGES:
        assert whole.request(method, f"/v1/models/pcb/{change}", json=body, headers=authorised).status_code == 200
    for operation in operations:
        try:
            strategy = operation.as_strategy(generation_mode=mode)

            @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
            @given(case=strategy, data=st.data())
            def answer(case, data):
                draw = data.draw
                for name, known in SERVED.items():
                    if name in (case.path_parameters or {}) and draw(st.integers(0, 4)):
                        case.path_parameters[name] = draw(st.sampled_from(known))
                if isinstance(case.body, dict) and "bundle" in case.body and draw(st.integers(0, 3)):
                    case.body.update(bundle=draw(st.sampled_from(BUNDLES)), version=None)
                key = keys[1][0] if draw(st.integers(0, 5)) else draw(st.sampled_from([*keys[1][1:], ""]))
                answered(case.call(headers={"Authorization": key}))

            answer()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, "nothing can be wrong with it"


def multipart(parts):
    """Parts of (headers, content) as a body; nothing is escaped."""
    return b"".join(b"--edge\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for head, content in parts) + b"--edge--\r\n"


names = st.sampled_from(
    [b"test", b"golden", b"golden_id", b"test.Solder", b"golden.White", b"manifest", b""]
) | st.binary(max_size=12)
dispositions = st.builds(
    lambda name, file: b'Content-Disposition: form-data; name="' + name + b'"' + file,
    names,
    st.sampled_from([b"", b'; filename="a.png"', b'; filename=""', b"; filename*=utf-8''%ff", b'; filename="../../x"']),
)
heads = dispositions | st.binary(max_size=40) | st.builds(lambda head: head + b"\r\nX: " + b"y" * 5000, dispositions)


@st.composite
def contents(draw):
    """Pictures, whole and damaged, and what only begins like one."""
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    kind = draw(st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM"]))
    Image.new("RGB", (8, 8), (9, 9, 9)).save(buffer, kind)
    whole = bytearray(buffer.getvalue())
    for _ in range(draw(st.integers(0, 3))):
        whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    return bytes(whole[: draw(st.integers(0, len(whole)) | st.just(len(whole)))])


parts = st.lists(st.tuples(heads, contents() | st.binary(max_size=60)), max_size=6)


part_names = st.sampled_from(["test", "golden", "a", "gone", ""])
pictures = st.dictionaries(st.sampled_from(["", "Solder", "White"]), part_names, max_size=3)
rows = st.fixed_dictionaries(
    {"id": st.sampled_from(["1", "2", "3"]), "test": pictures},
    optional={
        "golden": pictures | st.lists(pictures, max_size=4),
        "golden_id": st.sampled_from(["R1", ".", "\ud800", "x" * 200]),
        "threshold": st.floats() | st.just("high"),
        "more": st.none(),
    },
)
manifests = st.lists(rows, max_size=4).map(json.dumps).map(str.encode) | st.binary(max_size=20) | st.just(b"[" * 10_000)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    parts=parts,
    manifest=manifests | st.none(),
    model=st.sampled_from(["pcb", "lights", "goldens"]),
    route=st.sampled_from([("POST", "inspect"), ("POST", "inspect_batch"), ("PUT", "goldens/R1")]),
    cut=st.integers(0, 400) | st.none(),
)
def test_no_form_crashes_the_service(client, parts, manifest, model, route, cut):
    method, end = route
    if manifest is not None:
        parts = [(b'Content-Disposition: form-data; name="manifest"', manifest), *parts]
    body = multipart(parts)[:cut]
    answered(client.request(method, f"/v1/models/{model}/{end}", content=body, headers={"content-type": MIME}))


whole_numbers = st.integers(-1, 9) | st.sampled_from([2, 3, 8, 192, 768, 2**31, 2**62, 2**64, 10**40])
numbers = st.lists(st.floats() | st.integers() | st.none() | st.text(max_size=3) | st.just([1]), max_size=9)
good_shape = st.just([2, 3, 8, 8])
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["input_1", "input_2", "x"]),
        "shape": good_shape | st.lists(whole_numbers, max_size=9),
        "datatype": st.sampled_from(["FP32", "FP32", "INT8"]),
    },
    optional={
        "data": st.just([0.5] * 384) | numbers,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.just(1536) | whole_numbers}),
    },
)
outputs = st.fixed_dictionaries(
    {"name": st.sampled_from(["output", "x"])},
    optional={"parameters": st.fixed_dictionaries({"binary_data": st.booleans() | st.just(3)})},
)
inferences = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, min_size=1, max_size=3)},
    optional={
        "id": st.text(max_size=5) | st.integers(),
        "outputs": st.lists(outputs, max_size=2),
        "parameters": st.fixed_dictionaries({"binary_data_output": st.booleans()}),
    },
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    inference=inferences,
    rest=st.binary(max_size=20) | st.sampled_from([b"\0" * 1536, b"\xff" * 3072]),
    length=st.sampled_from([None, "", "-1", "1" * 5000, "\u00b2", "1e3", "0", "9" * 18]) | st.integers(0, 500).map(str),
    right=st.booleans(),
)
def test_no_tensors_crash_the_service(client, inference, rest, length, right):
    head = json.dumps(inference).encode()
    given_length = str(len(head)) if right else length
    headers = {} if given_length is None else {HEADER_LENGTH: given_length.encode("latin-1")}
    answered(client.post("/v2/models/pcb/infer", content=head + rest, headers=headers))


@pytest.mark.parametrize("size", ["1" * 5000, "\u00b2", "", "-5", "x"])
def test_a_length_that_is_none_is_no_crash(client, size):
    headers = {"content-length": size.encode("latin-1"), "content-type": MIME}
    answered(client.post("/v1/models/pcb/inspect", content=b"x", headers=headers))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([(b'Content-Disposition: form-data; name="test"; filename="a"', b"")] * 300, "Too many files"),
        ([(b'Content-Disposition: form-data; name="golden_id"', b"x")] * 20, "Too many fields"),
        ([(b'Content-Disposition: form-data; name="golden_id"', b"x" * 5000)], "exceeded maximum size"),
        ([(b'Content-Disposition: form-data; name="' + b"x" * 100_000 + b'"', b"")], ""),
        ([(b"\r\n".join(b"X-%d: y" % number for number in range(1000)), b"")], ""),
        ([(b"Content-Type: image/png", b"")], "name"),
    ],
)
def test_parts_are_limited_in_number_and_size(client, parts, words):
    response = client.post("/v1/models/pcb/inspect", content=multipart(parts), headers={"content-type": MIME})
    answered(response)
    assert response.status_code == 400 and words in response.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/models/pcb/inspect", "/v1/models"])
def test_a_body_that_dawdles_is_cut_off(client_of, path, monkeypatch):
    monkeypatch.setattr("serve.middleware.DROP_SECONDS", 0.2)
    app = client_of(request_seconds=0.3).app
    sent = []

    async def receive():
        await asyncio.sleep(0.1)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", MIME.encode()), (b"transfer-encoding", b"chunked")],
    }
    started = time.monotonic()
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] in (400, 405, 408)
    assert time.monotonic() - started < 30


def test_addresses_in_a_form_are_never_asked(client, monkeypatch):
    import socket

    def refuse(*_):
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for value in (b"http://169.254.169.254/", b"file:///etc/passwd", b"//host/share"):
        head = b'Content-Disposition: form-data; name="%s"; filename="' + value + b'"'
        body = multipart([(head % b"test", value), (head % b"golden", value)])
        response = client.post("/v1/models/pcb/inspect", content=body, headers={"content-type": MIME})
        assert response.status_code == 415
