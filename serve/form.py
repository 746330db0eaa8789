"""The multipart forms of the service: which part is which picture, and everything that can be wrong with that."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from fastapi import Request
from starlette.formparsers import MultiPartException, MultiPartParser

from serve.heads import request_id_of
from serve.problems import HttpError
from serve.settings import DOTS, NAME_PATTERN

MAX_FILES = 256
MAX_FIELDS = 8
MAX_FIELD_BYTES = 4096

Picture = dict[str, bytes]  # encoded picture of each light
Uploads = dict[str, list[bytes]]  # content of the files of each name, in their order


@dataclass(frozen=True)
class PairForm:
    """One pair as a client sent it.

    Args:
        test: One encoded picture a light.
        goldens: The same for each golden, in the order of the parts; none with `golden_id`.
        golden_id: A registered golden.
        threshold: Takes the place of the model's.
        request_id: Of the request that it came with.
        row: Its id on a board; None: it came alone.
    """

    test: Picture
    goldens: tuple[Picture, ...]
    golden_id: str | None = None
    threshold: float | None = None
    request_id: str = ""
    row: str | None = None

    @property
    def threshold_source(self) -> Literal["model", "request"]:
        """Who chose the threshold."""
        return "model" if self.threshold is None else "request"


class _InMemoryParser(MultiPartParser):
    """Keeps uploads in memory: the body is bounded, and pictures of customers' boards stay off the disk."""

    spool_max_size = 0  # of a SpooledTemporaryFile: never roll over


async def read_parts(
    request: Request,
    *,
    fields: Collection[str],
    max_files: int = MAX_FILES,
    max_field_bytes: int = MAX_FIELD_BYTES,
    texts_as_files: bool = False,
) -> tuple[Uploads, dict[str, str]]:
    """Read a multipart body; return its files by name, and its text fields.

    Args:
        request: Whose body it is.
        fields: Names of the parts that are text; all others must be files.
        max_files: Limit on their number.
        max_field_bytes: Limit on the length of a text.
        texts_as_files: The text parts may be files as well.

    Raises:
        HttpError: 400; 415 where the body is something else; 422 where a text is there twice.
    """
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "multipart/form-data":
        raise HttpError(415, "not-multipart", "Send the pictures as multipart/form-data.")
    parser = _InMemoryParser(
        request.headers, request.stream(), max_files=max_files, max_fields=MAX_FIELDS, max_part_size=max_field_bytes
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HttpError(400, "malformed-multipart", error.message) from error
    uploads: Uploads = {}
    texts: dict[str, str] = {}
    try:
        for name, value in form.multi_items():
            if name in texts:
                problem = f"the part {name!r} is there twice"
                raise HttpError(422, "wrong-fields", f"Wrong fields: {problem}.", problems=[problem])
            if (name in fields) != isinstance(value, str) and not (name in fields and texts_as_files):
                wanted = "text" if name in fields else "a file"
                raise HttpError(400, "wrong-part", f"The part {name!r} must be {wanted}.")
            if isinstance(value, str):
                texts[name] = value
                continue
            content = await value.read()
            await value.close()  # what was copied is not needed twice
            if name in fields:
                texts[name] = content.decode("utf-8", errors="replace")
            else:
                uploads.setdefault(name, []).append(content)
        return uploads, texts
    finally:
        await form.close()


async def read_pair(request: Request, *, lights: Sequence[str], num_golden: int) -> PairForm:
    """Read the body of a request to `inspect`.

    Args:
        request: Its body is multipart: `test` and `golden`, or `test.LIGHT` and `golden.LIGHT` for every light;
            `golden_id` instead of `golden`; `threshold`.
        lights: The lights of the model.
        num_golden: Goldens that the model compares a test with; 1 up to this many may be sent.

    Raises:
        HttpError: 400, 415 or 422; all wrong fields at once.
    """
    uploads, texts = await read_parts(request, fields=("golden_id", "threshold"))
    golden_id = texts.get("golden_id")
    problems: list[str] = []
    if golden_id is not None and (sent := [name for name in uploads if name.split(".")[0] == "golden"]):
        problems.append("send golden pictures or golden_id, not both")
        for name in sent:
            del uploads[name]
    if golden_id is not None and (golden_id in DOTS or not re.fullmatch(NAME_PATTERN, golden_id)):
        problems.append(f"golden_id is none: it must match {NAME_PATTERN}, and be more than . or ..")
    threshold = _threshold(texts.get("threshold"), problems)
    tests = _take(uploads, "test", lights, at_most=1, problems=problems)
    goldens = _take(uploads, "golden", lights, at_most=num_golden, problems=problems) if golden_id is None else []
    _refuse(uploads, ("test", "golden"), lights, problems)
    return PairForm(tests[0], tuple(goldens), golden_id, threshold, request_id_of(request.scope))


async def read_goldens(request: Request, *, lights: Sequence[str], num_golden: int) -> tuple[Picture, ...]:
    """Read the body of a request that registers a golden: the parts `golden` as for `read_pair`, which see."""
    uploads, _ = await read_parts(request, fields=())
    problems: list[str] = []
    goldens = _take(uploads, "golden", lights, at_most=num_golden, problems=problems)
    _refuse(uploads, ("golden",), lights, problems)
    return tuple(goldens)


def _threshold(text: str | None, problems: list[str]) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        problems.append("threshold is no number")
    return value


def _refuse(uploads: Uploads, roles: Sequence[str], lights: Sequence[str], problems: list[str]) -> None:
    """Raise all problems at once, parts that nobody took among them."""
    names = ", ".join(repr(part_name(role, light)) for role in roles for light in lights)
    names += " or 'golden_id'" if "test" in roles else ""
    problems += [f"unknown part {name!r}; this model takes {names}" for name in uploads]
    refuse_fields(problems)


def refuse_fields(problems: Sequence[str]) -> None:
    """Raise a 422 that tells all problems, if there are any."""
    if problems:
        raise HttpError(422, "wrong-fields", f"Wrong fields: {'; '.join(problems)}.", problems=problems)


def _take(uploads: Uploads, role: str, lights: Sequence[str], *, at_most: int, problems: list[str]) -> list[Picture]:
    """Remove the parts of one role from `uploads` and return its pictures; the k-th of every light belong together."""
    found: dict[str, list[bytes]] = {}
    for light in lights:
        name = part_name(role, light)
        alias = role if len(lights) == 1 else name
        contents = uploads.pop(name, []) + (uploads.pop(alias, []) if alias != name else [])
        if not contents:
            problems.append(f"part {name!r} is missing")
        found[light] = contents
    counts = {len(contents) for contents in found.values()} - {0}
    if max(counts, default=0) > at_most:
        problems.append(f"{max(counts)} pictures for {role}; this model takes at most {at_most}")
    elif len(counts) > 1:
        problems.append(f"the lights of {role} have different numbers of pictures")
    return [{light: found[light][index] for light in lights} for index in range(min(counts))] if not problems else []


def part_name(role: str, light: str) -> str:
    """Return the name of the part that holds one light of the test or golden picture."""
    return f"{role}.{light}" if light else role
