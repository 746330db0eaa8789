"""Model files that only the holder of a passphrase can read or write.

A sealed file is a header and chunks. Each chunk is encrypted with AES-256-GCM under a key that scrypt derives from the
passphrase and the file's own salt. The nonce of a chunk holds its number and whether it is the last one (the STREAM
construction), and the header is authenticated with every chunk, so a file that was changed, cut, extended or shuffled
is refused as a whole. Only ciphertext is ever written; decrypted content stays in memory.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, TYPE_CHECKING

import fsspec

from changenet import storage
from changenet.errors import CheckpointError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"\x89CHGNET\n"
VERSION = 1
_HEADER = struct.Struct(">8sBBBBI16s7s")
_TAG_BYTES = 16
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tlt")  # common ones, of files worth a hint
_NOT_SEALED = "not an encrypted model file"
_KEY_FIX = "Check encryption_key, or copy the file again from where it was written."


@dataclass(frozen=True)
class _Header:
    """What the reader needs beside the passphrase; the reader bounds every cost, because a header can be forged."""

    version: int = VERSION
    log2_cost: int = 15  # with 8 and 3: 32 MiB and about 0.2 s, the OWASP recommendation for scrypt
    block_size: int = 8
    parallelism: int = 3
    chunk_size: int = 1 << 20
    salt: bytes = field(default_factory=lambda: os.urandom(16))
    nonce_prefix: bytes = field(default_factory=lambda: os.urandom(7))

    def pack(self) -> bytes:
        return _HEADER.pack(
            MAGIC,
            self.version,
            self.log2_cost,
            self.block_size,
            self.parallelism,
            self.chunk_size,
            self.salt,
            self.nonce_prefix,
        )

    @classmethod
    def unpack(cls, content: bytes, where: str) -> _Header:
        if len(content) < _HEADER.size or not content.startswith(MAGIC):
            raise CheckpointError(_NOT_SEALED, where=where)
        header = cls(*_HEADER.unpack(content)[1:])
        if header.version > VERSION:
            raise CheckpointError(
                f"encrypted in format {header.version}; this version reads up to {VERSION}",
                where=where,
                fix="Upgrade changenet.",
            )
        sane = header.version == VERSION and 10 <= header.log2_cost <= 17 and 1 <= header.block_size <= 8
        if not (sane and 1 <= header.parallelism <= 16 and 1 <= header.chunk_size <= 1 << 24):
            raise CheckpointError("the header of this encrypted file is damaged", where=where, fix=_KEY_FIX)
        return header

    def cipher(self, passphrase: str) -> AESGCM:
        # Imported here: files in the clear are read and written where the package is missing.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        derivation = Scrypt(salt=self.salt, length=32, n=1 << self.log2_cost, r=self.block_size, p=self.parallelism)
        return AESGCM(derivation.derive(passphrase.encode("utf-8")))

    def nonce(self, number: int, *, last: bool) -> bytes:
        return self.nonce_prefix + struct.pack(">I?", number, last)


class SealedWriter(io.RawIOBase):
    """A write-only file that encrypts what it is given into `file`, one chunk at a time.

    The end is only marked when the `with` block ends well, so what an interrupted writer left is refused by the reader.
    `file` stays open.

    Args:
        file: An open binary file; only its `write` is used.
        passphrase: The encryption key as the user knows it; not empty.
        header: The costs and random values of the file; the default draws fresh ones.
    """

    def __init__(self, file: IO[bytes], passphrase: str, *, header: _Header | None = None) -> None:
        if not passphrase:
            raise CheckpointError("the encryption key is empty", fix="Set encryption_key, or null for no encryption.")
        self._file = file
        self._header = header or _Header()
        self._cipher = self._header.cipher(passphrase)
        self._packed = self._header.pack()
        self._buffer = bytearray()
        self._number = 0
        file.write(self._packed)

    def writable(self) -> bool:
        """Say yes."""
        return True

    def write(self, content: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Take bytes; whole chunks are encrypted and written at once."""
        self._buffer += content
        size = self._header.chunk_size
        start = 0
        while len(self._buffer) - start > size:  # the last chunk is written by __exit__, and is never cut from here
            self._write_chunk(bytes(self._buffer[start : start + size]), last=False)
            start += size
        del self._buffer[:start]
        return len(content)

    def _write_chunk(self, plain: bytes, *, last: bool) -> None:
        self._file.write(self._cipher.encrypt(self._header.nonce(self._number, last=last), plain, self._packed))
        self._number += 1

    def __enter__(self) -> SealedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write_chunk(bytes(self._buffer), last=True)
        self._buffer.clear()


def read_sealed(file: IO[bytes], passphrase: str | None, *, where: str = "") -> io.BytesIO:
    """Return the content of a sealed file, in memory, once every byte of it has been verified.

    Args:
        file: An open binary file at the start of the header.
        passphrase: The encryption key as the user knows it.
        where: The name of the file in errors.

    Raises:
        CheckpointError: Not a sealed file, no or another passphrase, or any byte changed, missing or added.
    """
    if not passphrase:
        raise CheckpointError(
            "encrypted, and there is no key", where=where, fix="Set encryption_key; serve also takes --key-file."
        )
    packed = file.read(_HEADER.size)
    header = _Header.unpack(packed, where)
    cipher = header.cipher(passphrase)
    from cryptography.exceptions import InvalidTag

    content = io.BytesIO()
    chunk = file.read(header.chunk_size + _TAG_BYTES)
    number = 0
    while True:
        following = file.read(header.chunk_size + _TAG_BYTES)
        try:
            content.write(cipher.decrypt(header.nonce(number, last=not following), chunk, packed))
        except (InvalidTag, ValueError) as error:  # ValueError: shorter than an authentication tag
            raise CheckpointError("wrong encryption key, or the file is damaged", where=where, fix=_KEY_FIX) from error
        if not following:
            content.seek(0)
            return content
        chunk, number = following, number + 1


def seal(content: bytes, passphrase: str) -> bytes:
    """Return `content` as the bytes of a sealed file.

    >>> unseal(seal(b"weights", "secret"), "secret")
    b'weights'
    """
    sealed = io.BytesIO()
    with SealedWriter(sealed, passphrase) as writer:
        writer.write(content)
    return sealed.getvalue()


def unseal(content: bytes, passphrase: str | None, *, where: str = "") -> bytes:
    """Return what `seal` was given (raises as `read_sealed`)."""
    return read_sealed(io.BytesIO(content), passphrase, where=where).getvalue()


def is_sealed(source: str | os.PathLike[str] | bytes) -> bool:
    """Say whether a file (path or URI), or its content, is sealed, whatever the suffix; a missing file is not."""
    if isinstance(source, bytes):
        return source.startswith(MAGIC)
    try:
        with fsspec.open(str(source), "rb") as file:
            return bool(file.read(len(MAGIC)) == MAGIC)
    except (FileNotFoundError, IsADirectoryError):
        return False


@contextlib.contextmanager
def write_model(path: str | os.PathLike[str], encryption_key: str | None) -> Iterator[IO[bytes]]:
    """Open a model file for atomic writing, sealed when there is a key.

    Args:
        path: File or URI.
        encryption_key: The passphrase; None or empty writes in the clear.
    """
    try:
        with storage.atomic_write(path) as file:
            if not encryption_key:
                yield file
            else:
                with SealedWriter(file, encryption_key) as sealed:
                    yield sealed  # type: ignore[misc]
    except RuntimeError as error:
        if isinstance(hidden := error.__context__, OSError):  # torch.save puts its own words in the place of the disk's
            raise OSError(hidden.errno, hidden.strerror, str(path)) from error
        raise


def read_model(path: str | os.PathLike[str], encryption_key: str | None) -> io.BytesIO:
    """Return the verified content of a model file in memory; a file in the clear needs no key and ignores one.

    Raises:
        CheckpointError: No such file, or a folder, or it is encrypted and the key is missing or wrong, or it is damaged.
    """
    try:
        with fsspec.open(str(path), "rb") as file:
            sealed = file.read(len(MAGIC)) == MAGIC
            file.seek(0)
            if not sealed:
                return io.BytesIO(file.read())
            return read_sealed(file, encryption_key, where=str(path))
    except (FileNotFoundError, IsADirectoryError) as error:
        names = storage.names_inside(path)
        if not names:
            raise CheckpointError("no such file", where=str(path), fix="Check the path.") from error
        fix = f"Name the file inside: {', '.join([name for name in names if name.endswith(_SUFFIXES)] or names[:5])}."
        raise CheckpointError("is a folder, not a file", where=str(path), fix=fix) from error
