"""What was changed about a model while the service runs: a small file that every replica reads.

    FOLDER/MODEL.model.json

The replica that was asked for a change tries it out before it writes the file; the others follow within a second, and a
new replica starts with it. A bundle that the configuration names anew wins over the file.
"""

from __future__ import annotations

import time

from pydantic import BaseModel, ConfigDict, ValidationError

from changenet import storage
from changenet.errors import DataError
from serve.settings import ModelSettings, Source

FORMAT_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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
        generation: Grows with every change.
    """

    format_version: int = FORMAT_VERSION
    generation: int = 0
    configured: tuple[ModelSettings, ...]
    active: Source
    previous: Source | None = None
    shadow: Candidate | None = None
    failure: Failure | None = None

    def changed(self, **fields: object) -> ModelState:
        """Return the next state."""
        return self.model_copy(update={**fields, "generation": self.generation + 1})

    def failed(self, bundle: str, reason: str) -> ModelState:
        """Return the same state, with a change that was not made."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return self.changed(failure=Failure(bundle=bundle, reason=reason, at=at))


class StateFiles:
    """The states of all models.

    Args:
        folder: Path or URI that all replicas see.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def read(self, model: str) -> ModelState | None:
        """Return the state of a model, None where nothing was changed.

        Raises:
            DataError: The file is damaged, or of a newer format.
        """
        where = self._path(model)
        try:
            text = storage.read_text(where)
        except DataError:
            return None
        try:
            return ModelState.model_validate_json(text)
        except ValidationError as error:
            raise DataError(
                "damaged state of a model", where=where, fix="Remove it; the configuration counts."
            ) from error

    def write(self, model: str, state: ModelState) -> None:
        """Let every replica follow."""
        storage.write_text(self._path(model), state.model_dump_json(indent=2))

    def write_tally(self, model: str, compared: str, replica: str, text: str) -> None:
        """Keep what a replica saw of a candidate; `compared` names it and the model that it ran beside."""
        storage.write_text(storage.join(self._shadow(model, compared), f"{replica}.json"), text)

    def read_tallies(self, model: str, compared: str) -> dict[str, str]:
        """Return what each replica saw, by replica."""
        folder = self._shadow(model, compared)
        names = storage.names_inside(folder)
        return {
            name.removesuffix(".json"): storage.read_text(storage.join(folder, name))
            for name in names
            if name.endswith(".json")
        }

    def _shadow(self, model: str, compared: str) -> str:
        return storage.join(self.folder, f"{model}.shadow", compared)

    def _path(self, model: str) -> str:
        return storage.join(self.folder, f"{model}.model.json")
