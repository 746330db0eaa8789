"""`changenet seal` and `changenet unseal`: model files are encrypted, and written in the clear again. Needs no Ray."""

from __future__ import annotations

from collections.abc import Sequence

from changenet import passphrase, storage
from changenet.errors import CheckpointError, Problem, SpecError
from changenet.sealing import Resealed, behind_links, seal, unseal
from ray_jobs.console import err, out, result_table


def run(
    files: Sequence[str],
    *,
    key_env: str | None = None,
    key_file: str | None = None,
    folder: str | None = None,
    overwrite: bool = False,
    encrypt: bool = True,
) -> int:
    """Encrypt files, or write them in the clear, each as a whole or not at all, and list what was written.

    Args:
        files: Model files and bundle folders: paths or URIs.
        key_env: Environment variable with the passphrase; None = CHANGENET_KEY.
        key_file: File with the passphrase, in its place.
        folder: Folder to write to; None = in the place of the files, which needs `overwrite`.
        overwrite: Replace what is there.
        encrypt: False decrypts.

    Raises:
        SpecError: Two sources for the passphrase, or two files of one name for `folder`.
        CheckpointError: There is no passphrase; or what is wrong with files, all at once. The others are done.
    """
    secret = passphrase.chosen(key_env, key_file) or passphrase.from_environment()
    # A link and the file that it names are one.
    targets = {
        file: storage.join(folder, storage.file_name(file)) if folder else None for file in map(behind_links, files)
    }
    if folder and len(set(targets.values())) < len(targets):
        raise SpecError("two files have the same name", where=f"--out {folder}", fix="Write them to different folders.")
    written: list[Resealed] = []
    problems: list[Problem] = []
    for file, target in targets.items():
        try:
            written.append((seal if encrypt else unseal)(file, secret, target=target, overwrite=overwrite))
        except CheckpointError as error:
            problems += error.problems
    _tell(written, encrypt=encrypt)
    if problems:
        raise CheckpointError(problems)
    return 0


def _tell(written: Sequence[Resealed], *, encrypt: bool) -> None:
    if not written:
        return
    rows = [(each.target, each.files, f"{each.size / 1e6:,.2f}") for each in written]
    out.print(result_table("Encrypted" if encrypt else "In the clear", ("written", "model files", "MB"), rows))
    for each in written:
        if each.signature_lost:
            line = f"{each.target}: the signature was that of the files before. Sign it again: changenet sign"
            err.print(line, soft_wrap=True)
