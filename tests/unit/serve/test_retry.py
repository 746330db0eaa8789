"""Requests that a replica had begun when it died."""

import asyncio

import pytest

from serve.retry import ATTEMPTS, Retry

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


def ask(proxy, *, path="/v1/models/pcb/inspect", **options):
    messages = [{"type": "http.request", "body": part, "more_body": part != PARTS[-1]} for part in PARTS]
    sent = []

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "state": {}}
    asyncio.run(Retry(proxy, **options)(scope, receive, send))
    return sent


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_another_replica_gets_the_whole_body(after, raises):
    proxy = Proxy(2, after=after, raises=raises)
    assert ask(proxy)[-1]["body"] == b"onetwothree"
    assert proxy.calls == 3


def test_it_gives_up_in_the_end():
    silent = Proxy(99, after=3)
    assert ask(silent) == [] and silent.calls == ATTEMPTS
    loud = Proxy(99, after=3, raises=True)
    with pytest.raises(RuntimeError):
        ask(loud)
    assert loud.calls == ATTEMPTS


@pytest.mark.parametrize("path", ["/v1/models/pcb/swap", "/v1/models/pcb/rollback"])
def test_what_may_happen_only_once_is_not_sent_again(path):
    proxy = Proxy(1, after=3)
    assert ask(proxy, path=path) == [] and proxy.calls == 1


def test_an_answer_that_has_begun_is_not_begun_again():
    proxy = Proxy(1, after=3, begins=True, raises=True)
    with pytest.raises(RuntimeError):
        ask(proxy)
    assert proxy.calls == 1


def test_a_body_that_is_too_large_to_keep_is_not_sent_again():
    proxy = Proxy(1, after=3)
    assert ask(proxy, kept_bytes=8) == [] and proxy.calls == 1
    assert ask(Proxy(0, after=0), kept_bytes=8)[-1]["body"] == b"onetwothree"
