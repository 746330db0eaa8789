"""Why a picture is missing: the file that was probably meant."""

from __future__ import annotations

import bisect
import os
from functools import lru_cache
from pathlib import PurePath


def missing_hint(path: str, root: str) -> str:
    """Say what lies in the place of a missing file under `root`; empty when nothing can be said."""
    if "\\" in path:
        return "Separate folders by '/'."
    place, differs = root, False
    for part in PurePath(os.path.relpath(path, root)).parts:
        names, folded = _listing(place)
        actual = part if _holds(names, part) else folded.get(part.casefold())
        if actual is None:
            return _similar(part, place, names)
        differs = differs or actual != part
        place = f"{place}/{actual}"
    return f"There is {place}: upper and lower case differ." if differs else ""


def _similar(part: str, place: str, names: tuple[str, ...]) -> str:
    stem = PurePath(part).stem
    at = bisect.bisect_left(names, stem)
    if at < len(names) and names[at].startswith(stem):
        return f"There is {names[at]!r} in {place}: check image_ext and input_map."
    return f"There is no {part!r} in {place}."


def _holds(names: tuple[str, ...], name: str) -> bool:
    at = bisect.bisect_left(names, name)
    return at < len(names) and names[at] == name


@lru_cache(maxsize=16)
def _listing(folder: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the sorted names in a folder, and by their case-folded spelling."""
    try:
        names = tuple(sorted(os.listdir(folder)))  # noqa: PTH208 - names are wanted, not paths
    except OSError:
        names = ()
    return names, {name.casefold(): name for name in names}
