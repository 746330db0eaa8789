"""The lock that keeps two runs out of one folder."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import IO, Any

import fsspec

from changenet.errors import ChangeNetError, RunError
from changenet.storage import is_uri, make_folder


class RunLock(contextlib.AbstractContextManager["RunLock"]):
    """Keeps two runs out of one local folder; a lock whose process is gone is taken over.

    The operating system's lock on `FOLDER/.lock` is held, so nothing has to be cleaned up after a crash. Object stores
    have no locks: there it does nothing.

    Raises:
        RunError: Another run holds the folder (the message says which).
        ChangeNetError: Nothing can be written there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = str(folder)
        self._file: IO[Any] | None = None

    def __enter__(self) -> RunLock:
        fix = "Choose another results_dir."
        if is_uri(self._folder):
            try:
                fsspec.core.url_to_fs(self._folder)
            except (ImportError, ValueError) as error:
                raise ChangeNetError(f"cannot be reached ({error})", where=self._folder, fix=fix) from error
            return self
        import fcntl

        try:
            file = Path(make_folder(self._folder), ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise ChangeNetError(f"cannot be written ({error.strerror})", where=self._folder, fix=fix) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            fix = "Wait for that run to end or choose another results_dir."
            raise RunError(f"in use by {holder}", where=self._folder, fix=fix) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
