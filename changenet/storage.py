"""Files and URIs: atomic writes, and the pointer to the latest file.

Every path may be local or any URI that fsspec knows (`s3://…`, `gs://…`, `memory://…`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec

from changenet.errors import DataError

POINTER_SUFFIX = ".pointer"


def is_uri(path: str | os.PathLike[str]) -> bool:
    """Say whether `path` is a URI rather than a local path."""
    return "://" in str(path)


def join(folder: str | os.PathLike[str], *names: str) -> str:
    """Join a folder (path or URI) and names.

    >>> join("s3://bucket/run/", "train", "a.pth")
    's3://bucket/run/train/a.pth'
    """
    if is_uri(folder):
        return "/".join([str(folder).rstrip("/"), *names])
    return str(Path(folder, *names))


def parent(path: str | os.PathLike[str]) -> str:
    """Return the folder of a path or URI.

    >>> parent("s3://bucket/folder/file"), parent("file")
    ('s3://bucket/folder', '.')
    """
    return str(path).rstrip("/").rpartition("/")[0] if is_uri(path) else str(Path(path).parent)


def is_inside(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Say whether a path or URI is a folder or lies in it; links of local ones are followed.

    >>> is_inside("s3://bucket/run/a.pth", "s3://bucket/run/"), is_inside("s3://bucket/runs", "s3://bucket/run")
    (True, False)
    """
    if is_uri(path) or is_uri(folder):
        return f"{path}/".startswith(f"{str(folder).rstrip('/')}/")
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def file_name(path: str | os.PathLike[str]) -> str:
    """Return the last part of a path or URI.

    >>> file_name("s3://bucket/folder/"), file_name("folder/file")
    ('folder', 'file')
    """
    return str(path).rstrip("/").rpartition("/")[2]


def absolute(path: str | os.PathLike[str]) -> str:
    """Return the path as processes with another working directory need it; URIs stay."""
    return str(path) if is_uri(path) else str(Path(path).absolute())


def _place(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """Return the file system of a path, and the path inside it; listings are not remembered, as others write there too."""
    file_system, inside = fsspec.core.url_to_fs(str(path), use_listings_cache=False)
    return file_system, inside


def make_folder(folder: str | os.PathLike[str]) -> str:
    """Create the folder with its parents if it is missing, and return it as text."""
    file_system, inside = _place(folder)
    file_system.makedirs(inside, exist_ok=True)
    return str(folder)


def exists(path: str | os.PathLike[str]) -> bool:
    """Say whether a file or folder is there."""
    file_system, inside = _place(path)
    return bool(file_system.exists(inside))


def names_inside(folder: str | os.PathLike[str]) -> list[str]:
    """Return the names in a folder, sorted; none where it is no folder."""
    file_system, inside = _place(folder)
    if not file_system.isdir(inside):
        return []
    return sorted(file_name(name) for name in file_system.ls(inside, detail=False))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the whole file.

    Raises:
        DataError: There is no such file.
    """
    file_system, inside = _place(path)
    try:
        content: bytes = file_system.cat_file(inside)  # one request: nobody can replace the file in the middle of it
        return content
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError("no such file", where=str(path), fix="Check the path.") from error


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the whole file as UTF-8 text (raises as `read_bytes`)."""
    return read_bytes(path).decode("utf-8")


def sha256(content: bytes) -> str:
    """Return the hexadecimal SHA-256 of the content."""
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal SHA-256 of a file's content, which is never held as a whole.

    Raises:
        FileNotFoundError: There is no such file.
    """
    with fsspec.open(str(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open `path` for writing so that readers see the old content or the whole new one, never a part.

    A local file is written beside its place, flushed to disk and renamed; parents are created. Object stores replace
    whole objects by themselves; there an error on the way leaves the old object.
    """
    if is_uri(path):
        file_system, inside = _place(path)
        with tempfile.SpooledTemporaryFile(max_size=64 << 20) as spool:
            yield spool
            spool.seek(0)
            file_system.makedirs(file_system._parent(inside), exist_ok=True)
            with file_system.open(inside, "wb") as file:
                while chunk := spool.read(8 << 20):
                    file.write(chunk)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(target.stat().st_mode & 0o777 if target.exists() else 0o644)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write the whole file atomically."""
    with atomic_write(path) as file:
        file.write(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Write the whole file atomically as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


@contextlib.contextmanager
def or_as_before(*paths: str) -> Iterator[None]:
    """Put files back as they were, or delete those that were not there, if what is done inside fails."""
    before = {path: read_bytes(path) if exists(path) else None for path in paths}
    try:
        yield
    except BaseException:
        for path, content in before.items():
            if content is None:
                remove(path)
            else:
                write_bytes(path, content)
        raise


def remove(path: str | os.PathLike[str]) -> None:
    """Delete a file if it is there."""
    file_system, inside = _place(path)
    with contextlib.suppress(FileNotFoundError):
        file_system.rm_file(inside)


def rename(path: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
    """Give a file another name in its folder; what has that name already is replaced."""
    file_system, inside = _place(path)
    file_system.mv(inside, _place(new)[1])


def set_aside(folder: str | os.PathLike[str]) -> str | None:
    """Move everything in a folder, but hidden files, into a new one beside it; return that, or None: it was empty.

    >>> set_aside("no/such/folder") is None
    True
    """
    names = [name for name in names_inside(folder) if not name.startswith(".")]
    if not names:
        return None
    aside = f"{str(folder).rstrip('/')}-until-{time.strftime('%Y%m%d-%H%M%S')}"
    file_system, inside = _place(folder)
    _, beside = _place(make_folder(aside))
    for name in names:
        file_system.mv(f"{inside}/{name}", f"{beside}/{name}", recursive=True)
    return aside


def remove_folder(path: str | os.PathLike[str]) -> None:
    """Delete a folder with all that is in it, if it is there."""
    file_system, inside = _place(path)
    with contextlib.suppress(FileNotFoundError):
        file_system.rm(inside, recursive=True)


def remove_empty_folder(path: str | os.PathLike[str]) -> None:
    """Delete a folder if it is there and nothing is in it."""
    file_system, inside = _place(path)
    with contextlib.suppress(OSError):  # somebody wrote into it meanwhile
        if file_system.isdir(inside) and not file_system.ls(inside, detail=False):
            file_system.rmdir(inside)


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Append one line; on an object store, which cannot append, the object is rewritten."""
    if is_uri(path):
        before = read_text(path) if exists(path) else ""
        write_text(path, f"{before}{line}\n")
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def set_latest(pointer: str | os.PathLike[str], target_name: str) -> None:
    """Let `pointer` name the file `target_name` of the same folder: a symbolic link, or a pointer file beside a URI."""
    if is_uri(pointer):
        write_text(f"{pointer}{POINTER_SUFFIX}", target_name)
        return
    link = Path(pointer)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target_name)
    fresh.replace(link)


def resolve_latest(pointer: str | os.PathLike[str]) -> str | None:
    """Return the file that `pointer` names, which may be gone by now; None when nothing was written yet."""
    if is_uri(pointer):
        note = f"{pointer}{POINTER_SUFFIX}"
        return join(parent(pointer), read_text(note).strip()) if exists(note) else None
    link = Path(pointer)
    return str(link.resolve()) if link.is_symlink() or link.exists() else None
