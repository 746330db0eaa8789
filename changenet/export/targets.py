"""Whether files may be written where they go: beside the bundle, not into it, and over nothing unasked."""

from __future__ import annotations

from collections.abc import Iterable

from changenet import storage
from changenet.bundle import is_bundle
from changenet.errors import CheckpointError, Problem

OVERWRITE = "Add --overwrite to replace it."


def check_files(files: Iterable[str], *, bundle: str | None, overwrite: bool) -> None:
    """Make sure that files may be written.

    Args:
        files: Paths or URIs.
        bundle: Folder of the bundle that they belong to, whether it is there already or not.
        overwrite: Replace what is there.

    Raises:
        CheckpointError: A file would lie in a bundle, which is refused once it holds more than its manifest lists, or it is
            there and may not be replaced: one problem a file.
    """
    problems = []
    for file in files:
        if is_bundle(storage.parent(file)) or (bundle is not None and storage.is_inside(file, bundle)):
            what = "would lie in a bundle, which holds nothing but what its manifest lists"
            problems.append(Problem(what, file, "Choose another folder."))
        elif not overwrite and storage.exists(file):
            problems.append(Problem("exists", file, OVERWRITE))
    if problems:
        raise CheckpointError(problems)
