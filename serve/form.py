"""The multipart form of an inspection: which part is which picture, and everything that can be wrong with that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from serve.problems import HttpError

MAX_FILES = 256
MAX_FIELDS = 8
MAX_FIELD_BYTES = 4096

Picture = dict[str, bytes]  # encoded picture of each light


@dataclass(frozen=True)
class InspectionForm:
    """The encoded pictures of one request.

    Args:
        test: One encoded picture a light.
        goldens: The same for each golden, in the order of the parts; one or more.
    """

    test: Picture
    goldens: tuple[Picture, ...]


class _InMemoryParser(MultiPartParser):
    """Keeps uploads in memory: the body is bounded, and pictures of customers' boards stay off the disk."""

    spool_max_size = 0  # of a SpooledTemporaryFile: never roll over


async def read_inspection_form(request: Request, *, lights: Sequence[str], num_golden: int) -> InspectionForm:
    """Read the body of a request to `inspect`.

    Args:
        request: Its body is multipart: `test` and `golden`, or `test.LIGHT` and `golden.LIGHT` for every light.
        lights: The lights of the model.
        num_golden: Goldens that the model compares a test with; 1 up to this many may be sent.

    Raises:
        HttpError: 400, 404, 415 or 422; all wrong fields at once.
    """
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "multipart/form-data":
        raise HttpError(415, "not-multipart", "Send the pictures as multipart/form-data.")
    parser = _InMemoryParser(
        request.headers, request.stream(), max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HttpError(400, "malformed-multipart", error.message) from error
    try:
        return await _sort(form, lights=lights, num_golden=num_golden)
    finally:
        await form.close()


async def _sort(form: FormData, *, lights: Sequence[str], num_golden: int) -> InspectionForm:
    uploads: dict[str, list[bytes]] = {}
    golden_id: str | None = None
    for name, value in form.multi_items():
        if name == "golden_id" and isinstance(value, str):
            golden_id = value
        elif name == "golden_id" or not isinstance(value, UploadFile):
            wanted = "text" if name == "golden_id" else "a file"
            raise HttpError(400, "wrong-part", f"The part {name!r} must be {wanted}.")
        else:
            uploads.setdefault(name, []).append(await value.read())
    problems: list[str] = []
    if golden_id is not None and any(name.split(".")[0] == "golden" for name in uploads):
        problems.append("send golden pictures or golden_id, not both")
    tests = _take(uploads, "test", lights, at_most=1, problems=problems)
    goldens = _take(uploads, "golden", lights, at_most=num_golden, problems=problems) if golden_id is None else []
    problems += [f"unknown part {name!r}; this model takes {_names(lights)}" for name in uploads]
    if problems:
        raise HttpError(422, "wrong-fields", f"Wrong fields: {'; '.join(problems)}.", problems=problems)
    if golden_id is not None:
        detail = f"No golden {golden_id!r} is registered here. Send its picture as the part 'golden'."
        raise HttpError(404, "no-such-golden", detail)
    return InspectionForm(test=tests[0], goldens=tuple(goldens))


def _take(
    uploads: dict[str, list[bytes]], role: str, lights: Sequence[str], *, at_most: int, problems: list[str]
) -> list[Picture]:
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


def _names(lights: Sequence[str]) -> str:
    return (
        ", ".join(repr(part_name(role, light)) for role in ("test", "golden") for light in lights) + " or 'golden_id'"
    )
