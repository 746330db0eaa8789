"""Goldens that clients registered: pictures named by their content, and a small record for each id.

    FOLDER/MODEL.goldens/ID.golden/record.json, and beside it every picture under the SHA-256 of its bytes

The record is written after its pictures and names them, so a reader sees the old golden or the whole new one. Every
request reads the record anew: all replicas that see the folder follow at once.

Several may write one id at the same moment, here and in other replicas, and no lock works on every share and store. So who
removed pictures looks at the record after that, and who wrote a record looks at its pictures after that, and both put back
what is missing: in the end every picture that the record names is there, and no other.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from changenet import storage
from changenet.errors import DataError
from changenet.storage import sha256
from serve.registry_away import or_away

FORMAT_VERSION = 1
RECORD = "record.json"
SUFFIX = ".golden"
DIGEST_LENGTH = len(sha256(b""))


@dataclass(frozen=True)
class Registered:
    """One registered golden.

    Args:
        golden_id: Its id.
        pictures: For each of its pictures the SHA-256 of every light's bytes.
        size: Bytes of all of them.
        registered: When, in UTC.
    """

    golden_id: str
    pictures: tuple[dict[str, str], ...]
    size: int
    registered: str

    @property
    def digests(self) -> set[str]:
        """The names of its files."""
        return {digest for picture in self.pictures for digest in picture.values()}


class GoldenRegistry:
    """The registered goldens of every model. Every method raises HttpError (503) while the folder is away.

    Args:
        folder: Path or URI that all replicas see; made when the first golden is registered.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    @or_away()
    def put(self, model: str, golden_id: str, goldens: Sequence[dict[str, bytes]]) -> tuple[Registered, bool]:
        """Register encoded pictures under an id, and say whether they replace others.

        Args:
            model: Name of a served model.
            golden_id: 1 to 128 letters, digits, `.`, `_` and `-`.
            goldens: One or more; for each the encoded picture of every light.
        """
        before = None
        with contextlib.suppress(DataError):  # a damaged record is what registering again mends
            before = self.get(model, golden_id)
        pictures = tuple({light: sha256(content) for light, content in golden.items()} for golden in goldens)
        contents = {sha256(content): content for golden in goldens for content in golden.values()}
        registered = Registered(
            golden_id=golden_id,
            pictures=pictures,
            size=sum(map(len, contents.values())),
            registered=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        for digest, content in contents.items():
            storage.write_bytes(self._path(model, golden_id, digest), content)
        record = {
            "format_version": FORMAT_VERSION,
            "pictures": pictures,
            "bytes": registered.size,
            "registered": registered.registered,
        }
        storage.write_text(self._path(model, golden_id, RECORD), json.dumps(record))
        self._tidy(model, golden_id, contents)
        return registered, before is not None

    @or_away()
    def get(self, model: str, golden_id: str) -> Registered | None:
        """Return what is registered under an id.

        Raises:
            DataError: Its record is damaged.
        """
        where = self._path(model, golden_id, RECORD)
        try:
            text = storage.read_text(where)
        except DataError:
            return None
        try:
            values = json.loads(text)
            if values["format_version"] > FORMAT_VERSION:
                raise DataError("written by a newer version of this program", where=where, fix="Upgrade changenet.")
            pictures = tuple({**each} for each in values["pictures"])
            return Registered(golden_id, pictures, int(values["bytes"]), str(values["registered"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("damaged record of a golden", where=where, fix="Register the golden again.") from error

    @or_away()
    def read(self, model: str, golden_id: str, digest: str) -> bytes:
        """Return one encoded picture.

        Raises:
            DataError: It is gone, or was changed on the disk.
        """
        where = self._path(model, golden_id, digest)
        content = storage.read_bytes(where)
        if sha256(content) != digest:
            raise DataError("changed since it was registered", where=where, fix="Register the golden again.")
        return content

    @or_away()
    def forget(self, model: str, golden_id: str) -> bool:
        """Remove a golden with its pictures, and say whether there was one."""
        there = storage.exists(self._path(model, golden_id, RECORD))
        storage.remove(self._path(model, golden_id, RECORD))
        self._tidy(model, golden_id, {})
        storage.remove_empty_folder(self._path(model, golden_id))
        return there

    @or_away()
    def ids(self, model: str) -> list[str]:
        """Return the ids of a model, sorted."""
        names = storage.names_inside(storage.join(self._folder, f"{model}.goldens"))
        return [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]

    def _tidy(self, model: str, golden_id: str, written: dict[str, bytes]) -> None:
        """Remove the pictures that the record does not name; then put back what it names and is missing."""
        named = self._named(model, golden_id)
        known = dict(written)
        for name in storage.names_inside(self._path(model, golden_id)):
            if len(name) == DIGEST_LENGTH and name not in named:  # others are the record, and files on their way
                with contextlib.suppress(DataError):  # another one was faster
                    known[name] = storage.read_bytes(self._path(model, golden_id, name))
                storage.remove(self._path(model, golden_id, name))
        for digest in self._named(model, golden_id) & known.keys():
            if not storage.exists(where := self._path(model, golden_id, digest)):
                storage.write_bytes(where, known[digest])

    def _named(self, model: str, golden_id: str) -> set[str]:
        with contextlib.suppress(DataError):
            if registered := self.get(model, golden_id):
                return registered.digests
        return set()

    def _path(self, model: str, golden_id: str, *name: str) -> str:
        # The suffixes make folders of every id, `..` included, that lie where they should.
        return storage.join(self._folder, f"{model}.goldens", f"{golden_id}{SUFFIX}", *name)
