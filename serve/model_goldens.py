"""The goldens of one model: sent with a request, or registered under an id; encoded before, or to be decoded.

What reads the folder of registered goldens runs in the readers' threads: it may be slow, and must not stop the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from changenet.errors import DataError
from changenet.storage import sha256
from serve.form import PairForm, Picture
from serve.golden_cache import Key
from serve.golden_registry import GoldenRegistry, Registered
from serve.pairs import Golden
from serve.problems import HttpError
from serve.threads import run_in

if TYPE_CHECKING:
    from serve.inspector import ServedModel, Shared


class ModelGoldens:
    """Finds the goldens of a model, and keeps those that are registered.

    Args:
        model: Whose they are.
    """

    def __init__(self, model: ServedModel) -> None:
        self._model = model

    @property
    def _shared(self) -> Shared:
        return self._model.shared

    async def register(self, golden_id: str, goldens: Sequence[Picture]) -> tuple[Registered, bool]:
        """Keep goldens under an id; say whether they replace others (raises as `ServedModel.inspect`)."""
        registry = self._registry()

        def checked() -> tuple[Registered, bool]:
            for golden in goldens:
                self._model.decode(golden, "golden")
            return registry.put(self._model.name, golden_id, goldens)

        return await run_in(self._shared.readers, checked)

    async def record(self, golden_id: str) -> Registered:
        """Return what is registered under an id (404 where nothing is)."""
        return await run_in(self._shared.readers, self._read, golden_id)

    async def forget(self, golden_id: str) -> None:
        """Forget a registered golden (404 where there is none); what was made of it gives way to others in the caches."""
        if not await run_in(self._shared.readers, self._registry().forget, self._model.name, golden_id):
            raise _no_such_golden(golden_id)

    def one(self, golden_id: str, picture: dict[str, str]) -> Golden:
        """Return one picture of a registered golden, by the SHA-256 of its lights; decoded unless it is in the cache.

        Raises:
            DataError: It is gone or damaged.
            HttpError: It has other lights, or cannot be decoded.
        """
        lights = self._model.inspector.description.layout.lights
        if picture.keys() != set(lights):
            raise _no_such_golden(golden_id, "was registered with other lights")
        key: Key = (self._model.identity, *(picture[light] for light in lights))
        if halves := self._shared.cache.get(key):
            return Golden(key, halves)
        registry = self._registry()
        contents = {light: registry.read(self._model.name, golden_id, digest) for light, digest in picture.items()}
        return Golden(key, pixels=self._model.decode(contents, f"golden {golden_id}"))

    async def picture(self, golden_id: str, digest: str) -> bytes:
        """Return one encoded picture of a registered golden, by its SHA-256 (404 where it has none of that name)."""

        def read() -> bytes:
            if digest not in self._read(golden_id).digests:
                raise _no_such_golden(golden_id, "has no such picture")
            try:
                return self._registry().read(self._model.name, golden_id, digest)
            except DataError as error:
                raise _no_such_golden(golden_id, "is damaged") from error

        return await run_in(self._shared.readers, read)

    def of(self, form: PairForm) -> tuple[Golden, ...]:
        """Return the goldens of a pair, those that are not in the cache decoded; may read the folder (raises as `one`)."""
        if form.golden_id is None:
            return tuple(map(self._sent, form.goldens))
        try:
            return self._all(form.golden_id)
        except DataError:
            # Another one may have taken its place since the record was read, and its pictures are gone.
            try:
                return self._all(form.golden_id)
            except DataError as error:
                raise _no_such_golden(form.golden_id, "is damaged") from error

    def _all(self, golden_id: str) -> tuple[Golden, ...]:
        return tuple(self.one(golden_id, picture) for picture in self._read(golden_id).pictures)

    def _sent(self, picture: Picture) -> Golden:
        lights = self._model.inspector.description.layout.lights
        key: Key = (self._model.identity, *(sha256(picture[light]) for light in lights))
        if halves := self._shared.cache.get(key):
            return Golden(key, halves)
        return Golden(key, pixels=self._model.decode(picture, "golden"))

    def _read(self, golden_id: str) -> Registered:
        try:
            registered = self._registry().get(self._model.name, golden_id)
        except DataError as error:
            raise _no_such_golden(golden_id, "is damaged") from error
        if registered is None:
            raise _no_such_golden(golden_id)
        return registered

    def _registry(self) -> GoldenRegistry:
        if self._shared.registry is None:
            raise HttpError(404, "no-registry", "This service keeps no goldens: it was started without goldens_dir.")
        return self._shared.registry


def _no_such_golden(golden_id: str, why: str = "is not registered here") -> HttpError:
    return HttpError(404, "no-such-golden", f"The golden {golden_id!r} {why}. Register it, or send its picture.")
