"""Picture bytes, which nobody vouches for, to RGB: bounded before decoding, refused when damaged.

One rule for every kind of file: what Pillow's `convert("RGB")` gives. A palette is looked up, alpha is dropped (the
colour beneath stays), CMYK is converted without a colour profile. 16 bits a channel become 8 by taking the high byte.
The EXIF orientation and colour profiles are ignored, as in TAO. More than one frame is refused.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

# Image.open with a list of formats loads every plugin of Pillow unless those on the list are loaded already.
from PIL import Image, Jpeg2KImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from changenet.data.kinds import Kind, PictureError

MAX_PIXELS = 64_000_000
MAX_SCANS = 100
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
# Pillow's own limit warns far below ours, which is checked from the header before anything is decoded.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_AT_ONCE = 1 << 20  # bytes
_SCAN = b"\xff\xda"  # begins a scan of a JPEG; inside one, 0xFF is always followed by zero or a restart marker
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
_TRUNCATION = ("truncated", "end of file", "eof", "not enough image data", "broken data stream", "cannot read")

PictureSource = bytes | str | os.PathLike[str] | Image.Image | NDArray[Any]


def decode_picture(source: PictureSource, *, where: str = "", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the picture in mode RGB, at its own size.

    Args:
        source: File content, a path, a Pillow picture, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16.
        where: What the error calls it; a path names itself.
        max_pixels: Limit on width times height, read from the header before anything is decoded.

    Raises:
        PictureError: Missing, unreadable, truncated, over-large or multi-frame; a `DataError` with a `kind`.
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source, where)
    if isinstance(source, Image.Image):
        return _to_rgb(_bounded(source, where, max_pixels), where)
    if isinstance(source, bytes):
        return decode_file(io.BytesIO(source), where=where, max_pixels=max_pixels)[0]
    where = where or str(source)
    with open_file(source, where=where) as file:
        return decode_file(file, where=where, max_pixels=max_pixels)[0]


def open_file(path: str | os.PathLike[str], *, where: str = "") -> IO[bytes]:
    """Open a picture file for reading; a small one is read at once, because Pillow reads in many little steps.

    Raises:
        PictureError: There is no such file, or it may not be read.
    """
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - the caller closes it
        head = file.read(_AT_ONCE)
        if len(head) < _AT_ONCE:
            file.close()
            return io.BytesIO(head)
        file.seek(0)
        return file
    except FileNotFoundError:
        fix = "Check images_dir, image_ext, input_map and the row."
        raise PictureError(Kind.MISSING_PICTURE, "no such picture", where=where or str(path), fix=fix) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PictureError(Kind.UNREADABLE, f"cannot be opened: {reason}", where=where or str(path)) from None


def decode_file(file: IO[bytes], *, where: str, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, str]:
    """Return the picture of an open file (mode RGB) and its format in Pillow's spelling, e.g. `JPEG`.

    Raises:
        PictureError: As `decode_picture`.
    """
    try:
        picture = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(str(error), where, max_pixels) from None
    except _DAMAGE:
        if not file.seek(0, os.SEEK_END):
            raise PictureError(Kind.UNREADABLE, "is an empty file (zero bytes)", where=where) from None
        what = "is not a readable picture"
        fix = f"Use one of {', '.join(FORMATS)}."
        raise PictureError(Kind.UNREADABLE, what, where=where, fix=fix) from None
    _bounded(picture, where, max_pixels)
    if picture.format == "JPEG":
        _few_scans(file, where)
    return _to_rgb(picture, where), str(picture.format)


def _few_scans(file: IO[bytes], where: str) -> None:
    """Refuse a JPEG of hundreds of scans: each may be empty, and still costs a pass over all pixels."""
    place = file.tell()
    file.seek(0)
    scans = file.read().count(_SCAN)
    file.seek(place)
    if scans > MAX_SCANS:
        what = f"has {scans} scans"
        fix = f"Save it again; cameras and editors write at most about ten, and {MAX_SCANS} are allowed."
        raise PictureError(Kind.UNREADABLE, what, where=where, fix=fix)


def _bounded(picture: Image.Image, where: str, max_pixels: int) -> Image.Image:
    width, height = picture.size
    if width * height > max_pixels:
        raise _too_large(f"is {width} x {height} pixels", where, max_pixels)
    try:
        frames = getattr(picture, "is_animated", False) or getattr(picture, "n_frames", 1) > 1
    except _DAMAGE as error:
        raise _damaged(error, where) from None
    if frames:
        what = "has more than one frame"
        raise PictureError(Kind.MULTI_FRAME, what, where=where, fix="Save the one frame that is meant.")
    return picture


def _too_large(what: str, where: str, max_pixels: int) -> PictureError:
    fix = f"At most {max_pixels / 1e6:g} megapixels are allowed."
    return PictureError(Kind.TOO_LARGE, what, where=where, fix=fix)


def _damaged(error: Exception, where: str) -> PictureError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if any(word in reason.lower() for word in _TRUNCATION):
        return PictureError(Kind.TRUNCATED, f"is truncated ({reason})", where=where, fix="Copy the file again.")
    return PictureError(Kind.UNREADABLE, f"cannot be decoded ({reason})", where=where, fix="Save it again.")


def _to_rgb(picture: Image.Image, where: str) -> Image.Image:
    """Decode, and convert to RGB by the rule of this module."""
    try:
        picture.load()
        if picture.mode.startswith("I"):
            picture = _high_byte(picture, where)
        if picture.mode == "F":
            what = "has floating-point pixels"
            raise PictureError(Kind.UNREADABLE, what, where=where, fix="Save it with 8 or 16 bits a channel.")
        if "transparency" in picture.info:  # convert() would read it and may warn
            picture = picture.copy()  # the caller's keeps it
            del picture.info["transparency"]
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    except _DAMAGE as error:
        raise _damaged(error, where) from None


def _high_byte(picture: Image.Image, where: str) -> Image.Image:
    values = np.asarray(picture)
    if values.size and (values.min() < 0 or values.max() > np.iinfo(np.uint16).max):
        what = "has pixels of more than 16 bits"
        raise PictureError(Kind.UNREADABLE, what, where=where, fix="Save it with 8 or 16 bits a channel.")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _from_array(pixels: NDArray[Any], where: str) -> Image.Image:
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not shaped or not pixels.size:
        what = f"is an array {pixels.shape} of {pixels.dtype}"
        fix = "Give (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16."
        raise PictureError(Kind.UNREADABLE, what, where=where, fix=fix)
    return Image.fromarray(np.ascontiguousarray(pixels))
