"""`changenet init`: a commented default spec, or an old spec in modern form."""

from __future__ import annotations

import sys

from changenet import storage
from changenet.errors import SpecError
from changenet.spec.modern import modern_form
from changenet.spec.rendering import template


def run(*, out: str | None = None, source: str | None = None) -> int:
    """Write a spec to `out` (or to stdout) and return 0.

    Args:
        out: The file to write; an existing one is never touched.
        source: An old spec to bring into modern form; without it the template of all keys is written.

    Raises:
        SpecError: `out` exists, or the old spec is wrong.
    """
    if out is not None and storage.exists(out):
        raise SpecError("exists already", where=out, fix="Choose another --out; nothing was written.")
    text = modern_form(source) if source is not None else template()
    if out is None:
        sys.stdout.write(text)
    else:
        storage.write_text(out, text)
    return 0
