"""What pixels do not need is dropped before it can do harm; a JPEG is read whatever its end looks like."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from im2sp.errors import ImageError
from im2sp.image.loading import load_image
from im2sp.image.slimming import slim_jpeg, slim_png

PHOTO = Image.fromarray(
    (np.add.outer(np.arange(160), np.arange(200))[..., None] * (1, 2, 3) % 256).astype(np.uint8)
).resize((400, 320))


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    PHOTO.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes, error: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ error)


def same(data: bytes, other: bytes) -> bool:
    return load_image(data).tobytes() == load_image(other).tobytes()


TRAILER = b"\0\1\x0cImage_UTC_Data1589\xff\xe1\0\x08ab\xff\xc4\xff\xda\xffEFH" + bytes(40) + b"SEFT"


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 10}, {"progressive": True}])
def test_the_end_of_a_jpeg(options: dict[str, object]) -> None:
    whole = jpeg(**options)
    assert same(whole[:-2], whole)
    assert same(whole[:-1], whole)
    assert same(whole + TRAILER * 9, whole)
    if "progressive" not in options:
        assert same(whole[:-2] + TRAILER, whole)
        assert same(whole[:-2] + b"\r\n", whole)
    for share in (0.3, 0.5, 0.8, 0.95):
        for end in (b"", TRAILER):
            with pytest.raises(ImageError):
                load_image(whole[: int(len(whole) * share)] + end)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_only_what_a_jpeg_needs_is_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = jpeg(exif=exif, icc_profile=bytes(200_000), comment=b"x" * 999)
    slim = slim_jpeg(whole[:2] + b"\xff\xe2\0\4ab" * 99 + whole[2:])
    assert len(slim.data) < len(whole) - 200_000
    assert (slim.pixels, slim.scans) == (400 * 320, 1)
    assert load_image(slim.data).size == (320, 400)  # still turned
    assert same(slim.data, whole)
    broken = b"\xff\xe1\0\x16Exif\0\0II*\0\xff\xff\xff\xffbroken"
    assert load_image(jpeg()[:2] + broken + jpeg()[2:]).tobytes() == load_image(jpeg()).tobytes()
    cmyk = io.BytesIO()
    PHOTO.convert("CMYK").save(cmyk, "JPEG")  # whose Adobe segment says that it is inverted
    assert same(slim_jpeg(cmyk.getvalue()).data, cmyk.getvalue())


@pytest.mark.parametrize("kind", [b"iCCP", b"iTXt", b"eXIf", b"acTL"])
@pytest.mark.parametrize(
    ("data", "error"), [(b"", 1), (b"name\0\0broken", 0), (b"k\0\1\0\0\0" + zlib.compress(bytes(9_000_000)), 0)]
)
def test_broken_side_information_of_a_png(kind: bytes, data: bytes, error: int) -> None:
    buffer = io.BytesIO()
    PHOTO.save(buffer, "PNG")
    whole = buffer.getvalue()
    assert same(whole[:33] + chunk(kind, data, error) + whole[33:], whole)
    assert same(whole[:-12] + chunk(kind, data, error), whole)


def test_a_png_with_broken_pixels_is_refused() -> None:
    buffer = io.BytesIO()
    PHOTO.save(buffer, "PNG")
    whole = bytearray(buffer.getvalue())
    for share in (0.2, 0.9):
        with pytest.raises(ImageError):
            load_image(bytes(whole[: int(len(whole) * share)]))
    whole[len(whole) // 2] ^= 1
    with pytest.raises(ImageError):
        load_image(bytes(whole))
    slim = slim_png(bytes(whole))
    assert (slim.pixels, slim.is_cheap) == (400 * 320, True)


def test_the_orientation_of_a_png_is_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    PHOTO.save(buffer, "PNG", exif=exif)
    data = buffer.getvalue()
    assert load_image(data).size == (320, 400)
    assert load_image(data[:33] + chunk(b"eXIf", b"broken", 1) + data[33:]).size == (320, 400)


def test_an_image_behind_very_many_parts_is_not_looked_for() -> None:
    whole = jpeg()
    assert same(whole[:2] + b"\xff\xfe\0\2" * 9_000 + whole[2:], whole)
    with pytest.raises(ImageError):
        load_image(whole[:2] + b"\xff\xfe\0\2" * 140_000 + whole[2:])
