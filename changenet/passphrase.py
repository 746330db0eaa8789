"""Where the passphrase of encrypted files comes from: an environment variable or a file, never a command line."""

from __future__ import annotations

import os

from changenet import storage
from changenet.errors import CheckpointError, DataError, SpecError

VARIABLE = "CHANGENET_KEY"


def chosen(variable: str | None, path: str | None) -> str | None:
    """Return the passphrase that one of two options of a command names, or None where neither is given.

    Raises:
        SpecError: Both are.
        CheckpointError: As `from_environment` and `from_file`.
    """
    if variable and path:
        raise SpecError("--key-env and --key-file name two passphrases", fix="Give one of them.")
    if path:
        return from_file(path)
    return from_environment(variable) if variable else None


def from_environment(name: str = VARIABLE) -> str:
    """Return the passphrase in an environment variable.

    Raises:
        CheckpointError: It is not set, or empty.
    """
    if found := os.environ.get(name):
        return found
    fix = f"Set it: export {name}=PASSPHRASE, or name a file with --key-file."
    raise CheckpointError(f"there is no passphrase in the environment variable {name}", fix=fix)


def from_file(path: str | os.PathLike[str]) -> str:
    """Return the passphrase in a file (path or URI): its only line, without the end of the line.

    Raises:
        CheckpointError: The file cannot be read, is empty, or holds several lines. Its content is not in the message.
    """
    try:
        text = storage.read_text(path)
    except DataError as error:
        raise CheckpointError(error.problems) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise CheckpointError(f"cannot be read ({reason})", where=str(path), fix="Name another file.") from error
    found = text.removesuffix("\n").removesuffix("\r")
    if not found or "\n" in found:
        what = "holds several lines" if found else "is empty"
        raise CheckpointError(what, where=str(path), fix="The file of a passphrase holds it alone, on one line.")
    return found
