from __future__ import annotations

import contextlib
import io
import pickle
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from changenet.data.images import decode_picture
from changenet.data.kinds import Kind, PictureError


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def kind_of(content, **options) -> Kind:
    with pytest.raises(PictureError) as caught:
        decode_picture(content, where="row", **options)
    assert caught.value.problem.where == "row"
    return caught.value.kind


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG", "WEBP", "JPEG2000"])
def test_every_format_gives_rgb_of_its_own_size(picture, kind):
    result = decode_picture(encoded(picture(), kind))
    assert (result.mode, result.size) == ("RGB", (16, 12))


def test_paths_bytes_pictures_and_arrays_agree(tmp_path, picture):
    original = picture()
    original.save(tmp_path / "a.png")
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        encoded(original),
        original,
        np.asarray(original),
        np.asarray(original).astype(np.uint16) * 256 + 7,
    ):
        assert np.array_equal(np.asarray(decode_picture(source)), np.asarray(original))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_mode_follows_the_one_rule(picture, mode):
    converted = picture().convert(mode)
    result = decode_picture(converted.copy())
    assert np.array_equal(np.asarray(result), np.asarray(converted.convert("RGB")))


def test_alpha_is_dropped_and_the_colour_beneath_stays(recwarn):
    clear = Image.new("RGBA", (4, 4), (200, 100, 50, 0))
    assert decode_picture(encoded(clear)).getpixel((0, 0)) == (200, 100, 50)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    assert decode_picture(encoded(palette, transparency=b"\x00\x10")).getpixel((0, 0)) == (9, 8, 7)
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_the_high_byte(kind):
    values = np.array([[0, 255, 256, 4095, 65535]], dtype=np.uint16)
    result = np.asarray(decode_picture(encoded(Image.fromarray(values), kind)))
    assert result[0, :, 0].tolist() == [0, 0, 1, 15, 255]
    assert np.array_equal(result[..., 0], result[..., 2])


def test_exif_orientation_is_ignored(picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_picture(encoded(picture(), "JPEG", exif=exif)).size == (16, 12)


def test_zero_bytes_and_other_files_are_unreadable(tmp_path):
    assert kind_of(b"") is Kind.UNREADABLE
    assert kind_of(b"<html>not found</html>") is Kind.UNREADABLE
    assert kind_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n") is Kind.UNREADABLE
    assert kind_of(np.zeros((3, 4), dtype=np.float32)) is Kind.UNREADABLE
    assert kind_of(tmp_path / "none.png") is Kind.MISSING_PICTURE
    assert kind_of(tmp_path) is Kind.UNREADABLE
    assert kind_of(Image.new("F", (4, 4))) is Kind.UNREADABLE
    assert kind_of(Image.new("I", (4, 4), 70000)) is Kind.UNREADABLE


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "PPM"])
def test_half_a_file_is_truncated(picture, kind):
    content = encoded(picture(size=(64, 64)), kind)
    assert kind_of(content[: len(content) * 2 // 3]) in (Kind.TRUNCATED, Kind.UNREADABLE)


def test_half_a_png_or_jpeg_is_called_truncated(picture):
    for kind in ("PNG", "JPEG"):
        content = encoded(picture(size=(64, 64)), kind)
        assert kind_of(content[: len(content) * 2 // 3]) is Kind.TRUNCATED


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_more_than_one_frame_is_refused(picture, kind):
    content = encoded(picture(1), kind, save_all=True, append_images=[picture(2)])
    assert kind_of(content) is Kind.MULTI_FRAME


def test_a_jpeg_of_hundreds_of_scans_is_refused(picture):
    whole = encoded(picture(), "JPEG", progressive=True)
    assert decode_picture(whole).size == (16, 12)
    last, end = whole.rindex(b"\xff\xda"), whole.rindex(b"\xff\xd9")
    few, many = (whole[:end] + whole[last:end] * count + whole[end:] for count in (20, 200))
    assert decode_picture(few).size == (16, 12)
    assert kind_of(many) is Kind.UNREADABLE


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_a_small_picture_with_much_packed_text_is_refused_without_unpacking(picture, kind):
    whole = encoded(picture())
    packed = zlib.compress(b"\0" * (8 << 20))
    content = b"a\0" + {b"zTXt": b"\0", b"iCCP": b"\0", b"iTXt": b"\1\0\0\0"}[kind] + packed
    chunk = len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)
    assert kind_of(whole[:33] + chunk + whole[33:]) is Kind.UNREADABLE


def test_the_pixel_limit_is_read_from_the_header(picture):
    assert kind_of(encoded(picture()), max_pixels=191) is Kind.TOO_LARGE
    decode_picture(encoded(picture()), max_pixels=192)
    # A header that claims 10^10 pixels, with no pixels behind it: refused before anything is allocated.
    bomb = bytearray(encoded(Image.new("L", (8, 8))))
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    assert kind_of(bytes(bomb)) is Kind.TOO_LARGE


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_give_a_picture_or_a_picture_error(data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP"]))
    content = bytearray(encoded(Image.new("RGB", (12, 9), (90, 40, 200)), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PictureError):
        assert decode_picture(bytes(content), max_pixels=10_000).mode == "RGB"


def test_picture_errors_cross_process_borders():
    error = PictureError(Kind.TRUNCATED, "is truncated", where="a.png", fix="Copy it again.")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.kind, str(copy)) == (error.kind, str(error))
