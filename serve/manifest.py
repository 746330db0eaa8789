"""The manifest of `inspect_batch`: which part is which picture of which component of a board."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from serve.form import PairForm, Picture, Uploads, read_parts, refuse_fields
from serve.heads import request_id_of
from serve.problems import HttpError
from serve.settings import Limits, Name

MANIFEST_BYTES = 4 << 20
SHOWN_PROBLEMS = 20

Parts = Annotated[dict[str, str], Field(min_length=1)]


class ManifestRow(BaseModel):
    """One component: its id, and the names of the parts that hold its pictures, a light each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(max_length=256, description="Comes back with the result; every row has its own.")
    test: Parts = Field(description="Part of every light; the key of an only light is empty.")
    golden: Parts | Annotated[list[Parts], Field(min_length=1)] | None = Field(
        default=None, description="Likewise; a list for several goldens. Rows may share parts."
    )
    golden_id: Name | None = Field(default=None, description="A registered golden, instead of `golden`.")
    threshold: FiniteFloat | None = Field(default=None, description="Takes the place of the model's.")


_ROWS = TypeAdapter(list[ManifestRow])


async def read_board(request: Request, *, lights: Sequence[str], num_golden: int, limits: Limits) -> list[PairForm]:
    """Read the body of a request to `inspect_batch`.

    Args:
        request: Its body is multipart: `manifest`, and the parts that it names.
        lights: The lights of the model.
        num_golden: Goldens that the model compares a test with; 1 up to this many may be sent.
        limits: On rows and parts.

    Raises:
        HttpError: 400, 413, 415 or 422; all wrong rows at once.
    """
    uploads, texts = await read_parts(
        request,
        fields=("manifest",),
        max_files=limits.batch_parts + 1,
        max_field_bytes=MANIFEST_BYTES,
        texts_as_files=True,
    )
    if "manifest" not in texts:
        refuse_fields(["part 'manifest' is missing"])
    if len(texts["manifest"]) > MANIFEST_BYTES:
        raise HttpError(413, "request-too-large", f"The manifest has more than {MANIFEST_BYTES} bytes.")
    try:
        rows = _ROWS.validate_json(texts["manifest"])
    except ValidationError as error:
        found = [f"manifest.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise HttpError(422, "wrong-fields", _shown(found), problems=found[:SHOWN_PROBLEMS]) from error
    if len(rows) > limits.batch_rows:
        raise HttpError(413, "request-too-large", f"{len(rows)} rows; this service takes at most {limits.batch_rows}.")
    problems = [f"the id {each!r} is there {count} times" for each, count in _repeated(row.id for row in rows)]
    pairs = [_pair(row, uploads, lights, num_golden, problems) for row in rows]
    unused = set(uploads) - {name for row in rows for picture in _pictures(row) for name in picture.values()}
    problems += [f"no row names the part {name!r}" for name in sorted(unused)]
    problems += [f"the part {name!r} is there {len(files)} times" for name, files in uploads.items() if len(files) > 1]
    if problems:
        raise HttpError(422, "wrong-fields", _shown(problems), problems=problems[:SHOWN_PROBLEMS])
    return [replace(pair, request_id=request_id_of(request.scope)) for pair in pairs]


def _pair(row: ManifestRow, uploads: Uploads, lights: Sequence[str], num_golden: int, problems: list[str]) -> PairForm:
    found: list[str] = []
    if (row.golden is None) == (row.golden_id is None):
        found.append("give either golden or golden_id")
    goldens = _goldens(row)
    if len(goldens) > num_golden:
        found.append(f"{len(goldens)} goldens; this model takes at most {num_golden}")
    test, *others = (_picture(each, uploads, lights, found) for each in (row.test, *goldens))
    problems += [f"row {row.id!r}: {each}" for each in found]
    return PairForm(test, tuple(others), row.golden_id, row.threshold, row=row.id)


def _picture(parts: Mapping[str, str], uploads: Uploads, lights: Sequence[str], problems: list[str]) -> Picture:
    if len(lights) == 1 and set(parts) == {""}:
        parts = {lights[0]: parts[""]}
    if set(parts) != set(lights):
        problems.append(f"names the lights {sorted(parts)}; this model compares {sorted(lights)}")
    missing = sorted(name for name in parts.values() if name not in uploads)
    problems += [f"there is no part {name!r}" for name in missing]
    return {light: uploads[name][0] for light, name in parts.items()} if not missing else {}


def _goldens(row: ManifestRow) -> list[dict[str, str]]:
    return row.golden if isinstance(row.golden, list) else [row.golden] if row.golden else []


def _pictures(row: ManifestRow) -> list[dict[str, str]]:
    return [row.test, *_goldens(row)]


def _repeated(ids: Iterable[str]) -> list[tuple[str, int]]:
    return [(each, count) for each, count in Counter(ids).items() if count > 1]


def _shown(problems: Sequence[str]) -> str:
    more = len(problems) - SHOWN_PROBLEMS
    return f"Wrong fields: {'; '.join(problems[:SHOWN_PROBLEMS])}{f'; and {more} more' if more > 0 else ''}."
