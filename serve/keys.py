"""API keys: who may ask, and for what. A file holds their SHA-256, never the keys, and is read again when it changes.

A key is 256 random bits, so a plain hash is enough: there is no list of likely keys to try.

    changenet-keys 1
    # name  scopes  hash
    line-3  inspect  sha256:5f2c…
    shift-lead  inspect,admin  sha256:91ab…
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from changenet import storage
from changenet.errors import DataError, Problem, SpecError

HEADER = "changenet-keys 1"
RECHECK_SECONDS = 1.0
_BEGINS = "changenet-keys "
_PREFIX = "cn_"  # tells scanners of repositories and logs what they found
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_MAKE = "Make one with changenet api-key FILE NAME."

logger = logging.getLogger(__name__)


class Scope(enum.StrEnum):
    """What a key is good for."""

    INSPECT = "inspect"
    ADMIN = "admin"


@dataclass(frozen=True)
class ApiKey:
    """One line of the file.

    Args:
        name: Whose key it is; goes into the log.
        scopes: What it is good for; `admin` includes the rest.
        digest: `sha256:` and the hexadecimal hash of the key.
    """

    name: str
    scopes: frozenset[Scope]
    digest: str

    def allows(self, scope: Scope) -> bool:
        """Say whether a request with this key may do what needs `scope`."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


def digest_of(key: str) -> str:
    """Return what the file holds of a key."""
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"


def read_keys(path: str) -> tuple[ApiKey, ...]:
    """Return the keys of a file.

    Raises:
        SpecError: There is no such file, it is none of ours, or lines of it are wrong: all of them.
    """
    if storage.is_uri(path):
        raise SpecError("is a URI", where=path, fix="Give a file that every node sees under the same path.")
    try:
        lines = storage.read_text(path).splitlines()
    except DataError as error:
        raise SpecError("no such file of keys", where=path, fix=_MAKE) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot be read ({type(error).__name__})", where=path, fix=_MAKE) from error
    if not lines or lines[0].strip() != HEADER:
        newer = bool(lines) and lines[0].startswith(_BEGINS)
        what = f"is of another version ({lines[0].strip()})" if newer else "is no file of keys"
        raise SpecError(what, where=path, fix="Upgrade changenet." if newer else _MAKE)
    keys: list[ApiKey] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines[1:], start=2):
        content = line.partition("#")[0].split()
        if not content:
            continue
        what = _wrong(content, {key.name for key in keys})
        if what:
            problems.append(Problem(what, f"{path}, line {number}", "Write NAME SCOPES HASH."))
        else:
            name, scopes, digest = content
            keys.append(ApiKey(name, frozenset(map(Scope, scopes.split(","))), digest))
    if problems:
        raise SpecError(problems)
    return tuple(keys)


def _wrong(content: list[str], names: set[str]) -> str:
    """Say what is wrong with the words of a line; never the words themselves, which may hold a key."""
    if len(content) != 3:
        return f"has {len(content)} words, not 3"
    name, scopes, digest = content
    if not _NAME.fullmatch(name):
        return "the name is not 1 to 64 letters, digits, dots, dashes or underscores"
    if name in names:
        return f"the name {name!r} is there already"
    if not set(scopes.split(",")) <= set(Scope):
        return f"the scopes are not {' or '.join(Scope)} (or both, with a comma)"
    return "" if _HASH.fullmatch(digest) else "the hash is not sha256: and 64 hexadecimal digits"


def add_key(path: str, name: str, *, admin: bool = False) -> str:
    """Make a key, add its hash to the file (a new one, if there is none) and return the key, which is kept nowhere.

    Args:
        path: File of keys.
        name: Whose it is.
        admin: It may also change what is served.

    Raises:
        SpecError: The name is taken or no name, or the file is wrong.
    """
    names = {key.name for key in read_keys(path)} if storage.exists(path) else set()
    before = storage.read_text(path) if storage.exists(path) else f"{HEADER}\n# name  scopes  hash\n"
    key = _PREFIX + secrets.token_urlsafe(32)
    scopes = f"{Scope.INSPECT},{Scope.ADMIN}" if admin else str(Scope.INSPECT)
    if what := _wrong([name, scopes, digest_of(key)], names):
        raise SpecError(what, where=path, fix="Choose another name, or remove its line first.")
    storage.write_text(path, f"{before.rstrip()}\n{name}  {scopes}  {digest_of(key)}\n")
    return key


class KeyRing:
    """The keys of a file, as it was when last `refresh` was called.

    A file that is gone or wrong leaves the last good keys in place and an error in the log, so that an editor that saves in
    two steps locks nobody out; a service does not start with one.

    Args:
        path: File of keys, as this machine sees it.
        clock: Seconds that never run backwards.

    Raises:
        SpecError: As `read_keys`.
    """

    def __init__(self, path: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._state = self._look()
        self._keys = read_keys(path)
        self._checked = clock()

    def find(self, key: str) -> ApiKey | None:
        """Return the entry of a key; every entry is compared, in constant time."""
        digest = digest_of(key)
        found = None
        for each in self._keys:
            if hmac.compare_digest(each.digest, digest):
                found = each
        return found

    @property
    def stale(self) -> bool:
        """Whether the file was looked at a second ago or more."""
        return self._clock() - self._checked >= RECHECK_SECONDS

    def refresh(self) -> None:
        """Look at the file, which may take as long as the share that it is on, and read it where it has changed."""
        state = self._look()
        self._checked = self._clock()
        if state == self._state:
            return
        self._state = state
        try:
            self._keys = read_keys(self._path)
            logger.info("API keys were read again: %d", len(self._keys), extra={"log_to_stderr": False})
        except SpecError as error:
            logger.error("The last good API keys stay in force: %s", error)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = Path(self._path).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
