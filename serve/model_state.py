"""What was changed about a model while the service runs: a small file that every replica reads.

    FOLDER/MODEL.model.json

The replica that was asked for a change tries it out before it writes the file; the others follow, and a new replica starts
with it. A bundle that the configuration names anew wins over the file.
"""

from __future__ import annotations

import json
import time
import uuid

from pydantic import BaseModel, ConfigDict, ValidationError

from changenet import storage
from changenet.errors import DataError
from serve.registry_away import or_away
from serve.settings import ModelSettings, Source

FORMAT_VERSION = 2


class NewerStateError(DataError):
    """The state was written by a newer version of this program, which alone may change it."""


class _Record(BaseModel):
    # Format 1 numbered its generations.
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class Candidate(_Record):
    """A bundle in the shadow of another.

    Args:
        source: Where it is.
        traffic: The share of requests it sees, 0-1.
        run: Made up each time it is put there: what was counted belongs to one run.
    """

    source: Source
    traffic: float
    run: str = ""


class Failure(_Record):
    """A change that was not made."""

    bundle: str
    reason: str
    at: str


class ModelState(_Record):
    """The bundles of one model.

    Args:
        configured: What the configuration said when the change was made.
        active: The bundle that answers.
        previous: The one before it.
        shadow: The candidate.
        failure: The last change, where it failed.
        generation: Made up with every change, so that two changes at once are never taken for one; empty at the start.
    """

    format_version: int = FORMAT_VERSION
    generation: str = ""
    configured: tuple[ModelSettings, ...]
    active: Source
    previous: Source | None = None
    shadow: Candidate | None = None
    failure: Failure | None = None

    def changed(self, **fields: object) -> ModelState:
        """Return another state."""
        made = {"generation": uuid.uuid4().hex, "format_version": FORMAT_VERSION}
        return self.model_copy(update={**fields, **made})


def failure_of(bundle: str, reason: str) -> Failure:
    """Return that a change was not made just now."""
    return Failure(bundle=bundle, reason=reason, at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


class StateFiles:
    """The states of all models. Every method raises HttpError (503) while the folder is away.

    Args:
        folder: Path or URI that all replicas see.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @or_away()
    def read(self, model: str) -> ModelState | None:
        """Return the state of a model, None where nothing was changed.

        Raises:
            DataError: The file is damaged, or (NewerStateError) of a newer format.
        """
        where = self._path(model)
        try:
            content = storage.read_bytes(where)
        except DataError:
            return None
        try:
            values = json.loads(content)
            if values["format_version"] > FORMAT_VERSION:
                what, fix = "written by a newer version of this program", "Upgrade changenet in every replica."
                raise NewerStateError(what, where=where, fix=fix)
            return ModelState.model_validate(values, strict=False)
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                "damaged state of a model", where=where, fix="Remove it; the configuration counts."
            ) from error

    @or_away()
    def write(self, model: str, state: ModelState) -> None:
        """Let every replica follow."""
        storage.write_text(self._path(model), state.model_dump_json(indent=2))

    def _path(self, model: str) -> str:
        return storage.join(self.folder, f"{model}.model.json")
