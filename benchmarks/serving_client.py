"""The client of serving.py: coroutines in a process of their own that send ready-made bytes over connections that stay open."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle
from urllib.parse import urlsplit

BOUNDARY = "changenet-benchmark"
NUMBER = b"<number>"  # in a body: replaced by digits that no other request has
TOLERANCE = 1e-5  # of |score difference| / max(1, |score|)


@dataclass(frozen=True)
class Sample:
    """A pair as clients send it.

    Args:
        test: Encoded picture.
        golden: Likewise.
        golden_id: Its id, where it is registered.
        score: What the library says.
    """

    test: bytes
    golden: bytes
    golden_id: str
    score: float


@dataclass(frozen=True)
class Call:
    """One request, and the scores that its answer must have."""

    path: str
    body: bytes
    scores: tuple[float, ...] = ()
    method: str = "POST"

    def content(self, url: str, number: int, request_id: str = "") -> bytes:
        """Return the whole HTTP request; `number` makes it unlike the others where its body has a place for that."""
        body = self.body.replace(NUMBER, b"%08d" % number)
        head = (
            f"{self.method} {self.path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
            f"{f'X-Request-ID: {request_id}' if request_id else 'Accept: */*'}\r\n\r\n"
        )
        return head.encode() + body


def form(parts: Sequence[tuple[str, bytes, bool]]) -> bytes:
    """Return a multipart body of (name, content, is a file)."""
    pieces = []
    for name, content, is_file in parts:
        file = '; filename="a"' if is_file else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        pieces += [head.encode(), content, b"\r\n"]
    return b"".join([*pieces, f"--{BOUNDARY}--\r\n".encode()])


def with_new_golden(path: str, sample: Sample) -> Call:
    """Both pictures; the golden ends in digits, which decoders skip, so that nobody has seen it before."""
    return Call(path, form([("test", sample.test, True), ("golden", sample.golden + NUMBER, True)]), (sample.score,))


def with_golden(path: str, sample: Sample) -> Call:
    """Both pictures, the same ones in every round."""
    return Call(path, form([("test", sample.test, True), ("golden", sample.golden, True)]), (sample.score,))


def with_golden_id(path: str, sample: Sample) -> Call:
    """The test picture and the id of its golden."""
    return Call(
        path, form([("test", sample.test, True), ("golden_id", sample.golden_id.encode(), False)]), (sample.score,)
    )


def board(path: str, samples: Sequence[Sample]) -> Call:
    """A whole board, goldens by id."""
    manifest = [
        {"id": str(number), "test": {"": f"t{number}"}, "golden_id": sample.golden_id}
        for number, sample in enumerate(samples)
    ]
    tests = [(f"t{number}", sample.test, True) for number, sample in enumerate(samples)]
    body = form([("manifest", json.dumps(manifest).encode(), False), *tests])
    return Call(path, body, tuple(sample.score for sample in samples))


@dataclass
class Load:
    """What the clients saw.

    Args:
        latencies: Seconds of each request.
        seconds: In all.
        processor: Seconds of computing by the clients themselves.
        statuses: Answers by status.
        wrong: Answers whose scores are not the library's.
    """

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    processor: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0


GoOn = Callable[[int, float], bool]


async def ask(url: str, calls: Iterator[tuple[int, Call]], *, concurrency: int, go_on: GoOn) -> Load:
    """Keep `concurrency` requests under way as long as `go_on` (requests begun, seconds) says so."""
    load = Load()
    started, computed = time.perf_counter(), time.process_time()
    begun = 0

    async def client() -> None:
        nonlocal begun
        writer = None
        while go_on(begun, time.perf_counter() - started):
            begun += 1
            number, call = next(calls)
            content = call.content(url, number)
            sent = time.perf_counter()
            if writer is None:
                reader, writer = await connect(url)
            writer.write(content)
            status, body, closes = await read_answer(reader)
            if closes:
                writer.close()
                writer = None
            load.latencies.append(time.perf_counter() - sent)
            load.statuses[status] += 1
            load.wrong += not fits(body, call.scores)
        if writer is not None:
            writer.close()

    await asyncio.gather(*(client() for _ in range(concurrency)))
    load.seconds = time.perf_counter() - started
    load.processor = time.process_time() - computed
    return load


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection."""
    place = urlsplit(url)
    return await asyncio.open_connection(place.hostname, place.port, limit=1 << 24)


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Return the status and the body of an answer, and whether the connection ends with it."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length), b"connection: close" in head


def fits(body: bytes, scores: Sequence[float]) -> bool:
    """Say whether an answer, of a pair or of a board, has these scores; nothing is asked of one without."""
    if not scores:
        return True
    answer = json.loads(body)
    found = [row.get("score") for row in answer.get("results", [answer])]
    return len(found) == len(scores) and all(
        value is not None and abs(value - score) <= TOLERANCE * max(1, abs(score))
        for value, score in zip(found, scores, strict=True)
    )


_numbers = count()


def drive(url: str, calls: Sequence[Call], concurrency: int, *, requests: int = 0, seconds: float = 0.0) -> Load:
    """Ask for some seconds, or a number of times; numbers go on from call to call in this process."""
    endless = zip(_numbers, cycle(calls), strict=False)

    def go_on(begun: int, gone: float) -> bool:
        return begun < requests or gone < seconds

    return asyncio.run(ask(url, endless, concurrency=concurrency, go_on=go_on))
