"""`changenet init`: a commented default spec, or an old spec in modern form."""

from __future__ import annotations

import sys

from changenet import storage
from changenet.errors import SpecError
from changenet.spec.modern import modern_form
from changenet.spec.rendering import template
from ray_jobs.console import err


def run(*, out: str | None = None, source: str | None = None, overwrite: bool = False) -> int:
    """Write a spec to `out` (or to stdout) and return 0.

    Args:
        out: The file to write.
        source: An old spec to bring into modern form; without it the template of all keys is written.
        overwrite: Replace an earlier file, though never the old spec itself.

    Raises:
        SpecError: `out` exists, or the old spec is wrong.
    """
    if out is not None and storage.exists(out):
        if not overwrite:
            raise SpecError("exists already", where=out, fix="Choose another --out, or add --overwrite to replace it.")
        if source is not None and storage.absolute(source) == storage.absolute(out):
            raise SpecError("is the spec to read", where=out, fix="Choose another --out.")
    text = modern_form(source) if source is not None else template()
    if out is None:
        sys.stdout.write(text)
    else:
        storage.write_text(out, text)
        then = "Compare the two" if source is not None else "Name the data sets in it"
        err.print(f"Written to {out}. {then}, then: changenet check -e {out}", soft_wrap=True)
    return 0
