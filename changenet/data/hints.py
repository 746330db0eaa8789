"""Why a picture is missing: the file that was probably meant."""

from __future__ import annotations

import bisect
import os
from functools import lru_cache


def missing_hint(path: str, root: str) -> str:
    """Say what lies in the place of a missing file under `root`; empty when nothing similar does."""
    if "\\" in path:
        return "Separate folders by '/'."
    place = root
    relative = os.path.relpath(path, root)
    for part in relative.split("/"):
        names, folded = _listing(place)
        if part not in names:
            return _similar(part, place, names, folded)
        place = f"{place}/{part}"
    return ""


def _similar(part: str, place: str, names: tuple[str, ...], folded: dict[str, str]) -> str:
    if part.casefold() in folded:
        return f"There is {folded[part.casefold()]!r} in {place}: upper and lower case differ."
    stem = os.path.splitext(part)[0]  # noqa: PTH122
    at = bisect.bisect_left(names, stem)
    if stem and at < len(names) and names[at].startswith(stem):
        return f"There is {names[at]!r} in {place}: check image_ext and input_map."
    return f"There is no {part!r} in {place}."


@lru_cache(maxsize=16)
def _listing(folder: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the sorted names in a folder, and by their case-folded spelling."""
    try:
        names = tuple(sorted(os.listdir(folder)))  # noqa: PTH208 - names are wanted, not paths
    except OSError:
        names = ()
    return names, {name.casefold(): name for name in names}
