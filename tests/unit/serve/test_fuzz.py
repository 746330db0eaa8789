"""Whatever is sent, the service answers, and never with a crash."""

import asyncio
import time

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MIME = "multipart/form-data; boundary=edge"


def answered(response):
    """No crash, and every error in the one shape of errors."""
    headers = {name: [value] if isinstance(value, str) else list(value) for name, value in response.headers.items()}
    assert response.status_code < 500 or response.status_code == 503, response.text
    assert headers["x-content-type-options"] == ["nosniff"]
    if response.status_code >= 400:
        assert headers["content-type"] == ["application/problem+json"]
        assert response.json()["status"] == response.status_code


@pytest.mark.slow
def test_every_request_of_the_interface_is_answered(client):
    described = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) >= 5
    for operation in operations:

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def answer(case):
            answered(case.call())

        answer()


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


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    parts=parts,
    model=st.sampled_from(["pcb", "lights", "goldens"]),
    cut=st.integers(0, 400) | st.none(),
    data=st.data(),
)
def test_no_form_crashes_the_service(client, parts, model, cut, data):
    body = multipart(parts)[:cut]
    chunk = data.draw(st.sampled_from([1, 7, 1000, 1 << 20]))
    pieces = (body[at : at + chunk] for at in range(0, len(body), chunk))
    answered(client.post(f"/v1/models/{model}/inspect", content=pieces, headers={"content-type": MIME}))


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
