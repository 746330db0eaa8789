"""What all replicas saw of candidates: each writes what it counted, and whoever reports adds it up.

FOLDER/MODEL.shadow/COMPARED/REPLICA.json
"""

from __future__ import annotations

import contextlib
import uuid

from changenet import storage
from changenet.errors import DataError
from serve.problems import HttpError
from serve.registry_away import or_away
from serve.shadow import Shadow, Tally
from serve.threads import FILES, run_in


class Tallies:
    """The tallies of this replica and of the others.

    Args:
        folder: Path or URI that all replicas see; None: this replica is the only one.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._replica = uuid.uuid4().hex

    async def total(self, shadow: Shadow) -> Tally:
        """Return what all replicas saw of a candidate.

        Raises:
            HttpError: 503, the folder is away.
        """
        total = shadow.tally
        for replica, tally in (await run_in(FILES, self.read, *_names(shadow))).items():
            total = total if replica == self._replica else total.plus(tally)
        return total

    async def tell(self, shadow: Shadow) -> None:
        """Let the other replicas know what the shadow saw here since they were told last (raises as `total`)."""
        if not shadow.unsaved:
            return
        shadow.unsaved = False
        tally = shadow.tally.model_copy(deep=True)  # it goes on counting
        try:
            await run_in(FILES, self.write, *_names(shadow), tally)
        except HttpError:
            shadow.unsaved = True
            raise

    async def forget(self, shadow: Shadow) -> None:
        """Remove what was seen of a candidate; every replica does when it leaves the shadow, so the last one is heard."""
        with contextlib.suppress(HttpError):  # some bytes stay
            await run_in(FILES, self.remove, *_names(shadow))

    @or_away()
    def read(self, model: str, compared: str) -> dict[str, Tally]:
        """Return what each replica saw, by replica; `compared` names the candidate and the model that it ran beside."""
        found: dict[str, Tally] = {}
        if folder := self._of(model, compared):
            for name in storage.names_inside(folder):
                if name.endswith(".json"):
                    with contextlib.suppress(DataError):  # removed since it was listed: the shadow is going
                        text = storage.read_text(storage.join(folder, name))
                        found[name.removesuffix(".json")] = Tally.model_validate_json(text)
        return found

    @or_away()
    def write(self, model: str, compared: str, tally: Tally) -> None:
        """Keep what this replica saw."""
        if folder := self._of(model, compared):
            storage.write_text(storage.join(folder, f"{self._replica}.json"), tally.model_dump_json())

    @or_away()
    def remove(self, model: str, compared: str) -> None:
        """Forget what all replicas saw."""
        if folder := self._of(model, compared):
            storage.remove_folder(folder)

    def _of(self, model: str, compared: str) -> str | None:
        return storage.join(self._folder, f"{model}.shadow", compared) if self._folder is not None else None


def _names(shadow: Shadow) -> tuple[str, str]:
    return shadow.beside.name, shadow.compared
