"""Requests that a replica had begun when it died."""

import asyncio
import json

import pytest

from serve import resending
from serve.resending import ATTEMPTS, attempts_for
from serve.retry import Retry

PARTS = [b"one", b"two", b"three"]


class Proxy:
    """Dies so many times after so many parts of the body, then answers with what it received."""

    def __init__(self, deaths: int, *, after: int, raises: bool = False, begins: bool = False) -> None:
        self.deaths = deaths
        self.after = after
        self.raises = raises
        self.begins = begins
        self.calls = 0

    async def __call__(self, _, receive, send):
        self.calls += 1
        body, more, parts = b"", True, 0
        dies = self.calls <= self.deaths
        while more and not (dies and parts == self.after):
            message = await receive()
            body, more, parts = body + message["body"], message["more_body"], parts + 1
        if dies:
            if self.begins:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            if self.raises:
                raise RuntimeError("the replica died")
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


def ask(proxy, *, path="/v1/models/pcb/inspect", parts=PARTS, headers=(), **options):
    messages = [{"type": "http.request", "body": part, "more_body": n < len(parts)} for n, part in enumerate(parts, 1)]
    sent = []

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers)}
    asyncio.run(Retry(proxy, **options)(scope, receive, send))
    return sent


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_another_replica_gets_the_whole_body(after, raises):
    proxy = Proxy(2, after=after, raises=raises)
    assert ask(proxy)[-1]["body"] == b"onetwothree"
    assert proxy.calls == 3


def told(sent, status, kind):
    """Nothing but a whole problem was sent."""
    start, body = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    problem = json.loads(body["body"])
    assert (start["status"], problem["status"], headers["content-type"]) == (status, status, "application/problem+json")
    assert problem["type"].endswith(f":{kind}") and problem["request_id"] == headers["x-request-id"]
    assert ("retry-after" in headers) == (status == 503) and headers["x-content-type-options"] == "nosniff"
    return True


@pytest.mark.parametrize("raises", [True, False])
def test_it_gives_up_in_the_end(raises):
    proxy = Proxy(99, after=3, raises=raises)
    assert told(ask(proxy), 503, "no-replica") and proxy.calls == ATTEMPTS


@pytest.mark.parametrize("path", ["/v1/models/swap/goldens/rollback", "/v1/models/rollback"])
def test_a_name_is_no_verb(path):
    assert attempts_for(path) > 1


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("path", ["/v1/models/pcb/swap", "/v1/models/pcb/rollback"])
def test_what_may_happen_only_once_is_not_sent_again(path, raises):
    proxy = Proxy(1, after=3, raises=raises)
    assert told(ask(proxy, path=path), 500, "broken-off") and proxy.calls == 1


def test_where_haproxy_sends_again_nothing_else_does():
    proxy = Proxy(1, after=3)
    assert told(ask(proxy, resends=False), 503, "no-replica") and proxy.calls == 1


def test_an_answer_that_has_begun_is_not_begun_again():
    proxy = Proxy(1, after=3, begins=True, raises=True)
    with pytest.raises(RuntimeError):
        ask(proxy)
    assert proxy.calls == 1


def test_a_body_that_is_too_large_to_keep_is_not_sent_again():
    proxy = Proxy(1, after=3)
    assert told(ask(proxy, kept_bytes=8), 503, "no-replica") and proxy.calls == 1
    assert ask(Proxy(0, after=0), kept_bytes=8)[-1]["body"] == b"onetwothree"


def test_a_board_of_the_largest_kept_size_is_sent_again():
    part = b"x" * (resending.KEPT_BYTES // 4)
    assert len(ask(Proxy(2, after=4), parts=[part] * 4)[-1]["body"]) == resending.KEPT_BYTES


class Fails:
    """Ray Serve, or an application, that answers an error."""

    def __init__(self, status, *headers):
        self.start = {"type": "http.response.start", "status": status, "headers": list(headers)}

    async def __call__(self, _, _receive, send):
        await send(dict(self.start))
        await send({"type": "http.response.body", "body": b"Request dropped"})


TEXT = (b"content-type", b"text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("status", "instead", "kind"), [(408, 408, "timeout"), (503, 503, "overloaded"), (404, 503, "no-replica")]
)
def test_errors_of_ray_serve_become_problems(status, instead, kind):
    assert told(ask(Fails(status, TEXT)), instead, kind)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/-/healthz", [TEXT]),
        ("/", [(b"content-type", b"application/json")]),
        ("/", [TEXT, (b"content-length", b"15")]),
    ],
)
def test_errors_of_applications_and_its_health_stay_as_they_are(path, headers):
    start, body = ask(Fails(503, *headers), path=path)
    assert (start["status"], body["body"]) == (503, b"Request dropped")


class Echo:
    async def __call__(self, scope, _receive, send):
        self.headers = scope["headers"]
        await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([(b"host", b"a"), (b"x-request-id", b"line 7")], [(b"host", b"a"), (b"x-request-id", b"line 7")]),
        ([(b"x-request-id", b"\xff"), (b"x-request-id", b"b")], [(b"x-request-id", b"b")]),
        ([(b"x-request-id", b"a" * 200)], [(b"x-request-id", b"a" * 128)]),
        ([(b"x-request-id", b"b"), (b"x-request-timeout-seconds", b"0")], [(b"x-request-id", b"b")]),
        ([(b"x-request-id", b"b"), (b"X-Request-Disconnect-Disabled", b"?1")], [(b"x-request-id", b"b")]),
        ([(b"serve_multiplexed_model_id", b"\xff"), (b"x-request-id", b"b")], [(b"x-request-id", b"b")]),
    ],
)
def test_ray_serve_gets_headers_that_it_can_read(given, kept):
    ask(echo := Echo(), headers=given)
    assert echo.headers == kept


@pytest.mark.parametrize(
    "given", [[], [(b"x-request-id", b"\xff")], [(b"x-request-id", b"")], [(b"x-request-id", b"a\nb")]]
)
def test_a_request_without_a_name_that_can_be_written_gets_one(given):
    ask(echo := Echo(), headers=given)
    ((name, value),) = echo.headers
    assert name == b"x-request-id" and len(value) == 32 and value.isalnum()
