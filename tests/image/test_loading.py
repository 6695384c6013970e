"""Every kind of picture becomes RGB; whatever is not one is refused in one sentence, before memory is taken."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from im2sp.errors import ImageError
from im2sp.image import decoding
from im2sp.image.decoding import DRAFT_SIDE
from im2sp.image.loading import MAX_FILE_BYTES, load_image, to_pixels

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quarters() -> Image.Image:
    """64 x 32: red and green above, blue and white below."""
    image = Image.new("RGB", (64, 32), WHITE)
    for colour, box in ((RED, (0, 0, 32, 16)), (GREEN, (32, 0, 64, 16)), (BLUE, (0, 16, 32, 32))):
        image.paste(colour, box)
    return image


def assert_quarters(image: Image.Image, tolerance: int = 40) -> None:
    assert (image.mode, image.size) == ("RGB", (64, 32))
    for spot, colour in (((16, 8), RED), ((48, 8), GREEN), ((16, 24), BLUE), ((48, 24), WHITE)):
        assert np.abs(np.subtract(image.getpixel(spot), colour)).max() <= tolerance, (spot, image.getpixel(spot))


def complaint(source: object) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source)  # type: ignore[arg-type]
    sentence = str(caught.value)
    assert sentence
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return sentence


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


# ---- kinds of file ----


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF"])
def test_formats(kind: str, tmp_path: Path) -> None:
    data = encoded(quarters(), kind)
    path = tmp_path / "photo with blanks and ünïcode.bin"
    path.write_bytes(data)
    for source in (path, str(path), data, io.BytesIO(data)):
        assert_quarters(load_image(source))
    with path.open("rb") as file:
        assert_quarters(load_image(file))


@pytest.mark.parametrize("mode", ["1", "LA", "PA", "RGBa", "La", "CMYK", "HSV", "I", "F"])
def test_pil_modes(mode: str) -> None:
    via = {"RGBa": "RGBA", "La": "LA", "PA": "P"}.get(mode)
    image = (quarters().convert(via) if via else quarters()).convert(mode)
    loaded = load_image(image)
    assert (loaded.mode, loaded.size) == ("RGB", (64, 32))
    if mode in ("PA", "RGBa", "CMYK", "HSV"):
        assert_quarters(loaded)
    assert loaded.getpixel((48, 24)) == WHITE
    assert image.mode == mode


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(4, 256)
    loaded = np.asarray(load_image(encoded(Image.fromarray(values), kind)))
    assert np.array_equal(loaded, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_floats_and_32_bit_are_stretched() -> None:
    values = np.array([[np.nan, -2.0, 0.0, 2.0, np.inf]], np.float32)
    assert [load_image(Image.fromarray(values)).getpixel((x, 0))[0] for x in range(5)] == [0, 0, 128, 255, 255]
    counts = np.array([[-100_000, 0, 100_000]], np.int32)
    assert [load_image(encoded(Image.fromarray(counts), "TIFF")).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    assert load_image(Image.new("F", (2, 2), 7.0)).getpixel((0, 0)) == BLACK


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_blended_on_white(kind: str) -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 255), (0, 0, 255, 128), (0, 0, 0, 0)])
    loaded = load_image(encoded(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    assert [loaded.getpixel((x, 0)) for x in range(3)] == [RED, (127, 127, 255), WHITE]


def test_transparent_colours_without_an_alpha_channel() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLACK])
    palette.putdata([0, 1])
    for kind in ("PNG", "GIF"):
        loaded = load_image(encoded(palette, kind, transparency=1))
        assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]
    grey = Image.new("L", (2, 1))
    grey.putdata([0, 100])
    assert load_image(encoded(grey, "PNG", transparency=100)).getpixel((1, 0)) == WHITE
    assert load_image(encoded(quarters(), "PNG", transparency=RED)).getpixel((16, 8)) == WHITE


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "MPO"])
def test_first_frame_of_an_animation(kind: str) -> None:
    others = [Image.new("RGB", (64, 32), BLACK)] * 2
    assert_quarters(load_image(encoded(quarters(), kind, save_all=True, append_images=others)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    undo = {
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
        **{known: decoding._TRANSPOSE[known] for known in (2, 3, 4, 5, 7)},
    }
    stored = quarters().transpose(undo[orientation]) if orientation > 1 else quarters()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(stored, kind, exif=exif)
    loaded = load_image(data)
    assert_quarters(loaded)
    assert_quarters(load_image(loaded))  # not turned twice
    with Image.open(io.BytesIO(data)) as image:
        assert_quarters(load_image(image))


# ---- arrays and pixels ----


def test_arrays() -> None:
    colour = np.asarray(quarters())
    assert_quarters(load_image(colour), 0)
    assert_quarters(load_image(colour[::-1, ::-1][::-1, ::-1]), 0)  # not contiguous
    assert load_image(colour[..., 0]).getpixel((48, 8)) == BLACK
    clear = np.dstack([colour, np.zeros(colour.shape[:2], np.uint8)])
    assert load_image(clear).getpixel((16, 8)) == WHITE


def test_arrays_of_another_type_and_other_things() -> None:
    assert "float32" in complaint(np.zeros((4, 4, 3), np.float32))
    for shape in ((4,), (4, 4, 2), (1, 4, 4, 3), (0, 4, 3)):
        assert str(list(shape)) in complaint(np.zeros(shape, np.uint8))
    assert "int is not a picture" in complaint(7)
    assert "no pixels" in complaint(Image.new("RGB", (0, 5)))
    assert "binary mode" in complaint(io.StringIO("text"))


def test_to_pixels_matches_the_definition() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = to_pixels(quarters(), 24, 40, mean, std)
    assert (pixels.dtype, pixels.shape, pixels.flags["C_CONTIGUOUS"]) == (np.float32, (3, 24, 40), True)
    resized = np.asarray(quarters().resize((40, 24), Image.Resampling.BICUBIC), np.float64) / 255
    assert np.allclose(pixels, ((resized - mean) / std).transpose(2, 0, 1), atol=1e-5)


# ---- what is refused ----


def test_missing_folder_empty_and_not_an_image(tmp_path: Path) -> None:
    missing, empty, text = tmp_path / "missing.jpg", tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.touch()
    text.write_text("this is not a picture " * 50)
    assert complaint(missing) == f"{missing}: cannot be read (there is no such file)"
    assert complaint(tmp_path) == f"{tmp_path}: cannot be read (it is a folder)"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "not a regular file" in complaint(tmp_path / "pipe.jpg")  # nor waited for
    assert complaint(empty) == f"{empty}: is empty (zero bytes)"
    assert complaint(text).startswith(f"{text}: is not a picture")
    assert "empty" in complaint(b"")
    assert "cannot be read" in complaint("a\0b.jpg")
    assert "cannot be read" in complaint(text / "below.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_cut_short(kind: str, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = encoded(noise, kind)
    path = tmp_path / "cut"
    for share in (0.05, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        assert complaint(path).startswith(str(path))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]), data=st.data())
def test_damaged_files_are_read_or_refused_but_nothing_else(kind: str, data: st.DataObject) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    whole = bytearray(encoded(quarters(), kind, **({} if kind in ("GIF", "BMP") else {"exif": exif})))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(ImageError):
            assert load_image(bytes(whole)).mode == "RGB"


WEBP = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (9_000 - 1).to_bytes(3, "little") * 2
GIF = b"GIF89a" + struct.pack("<HHBBB", 9_000, 9_000, 0x80, 0, 0) + bytes(6)
GIF += b"," + struct.pack("<HHHHB", 0, 0, 9_000, 9_000, 0) + b"\x08\x01\x00\x00;"
BMP = b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 9_000, 9_000, 1, 24, *[0] * 6)


@pytest.mark.parametrize("data", [png_header(20_000, 20_000), WEBP, GIF, BMP + bytes(100)])
def test_bombs_are_refused_by_their_header(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracemalloc.start()
        sentence = complaint(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert "too large" in sentence
    assert peak < 5 * 2**20


def test_sides_and_tiles_have_limits() -> None:
    assert "a side" in complaint(png_header(60_000_000, 1))
    assert "too large" in complaint(Image.new("1", (8_001, 8_001)))
    tags = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 277: 1, 322: 60_000, 323: 60_000, 324: 8, 325: 4096}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    tiff = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + bytes(4096)
    assert "tiles" in complaint(tiff)


def test_files_over_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # a hole: takes no disk
    assert "67,108,864 at most" in complaint(path)

    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            piece = bytes(min(size, 2**20))
            Endless.given += len(piece)
            return piece

    assert "64 MiB" in complaint(Endless())
    assert Endless.given == MAX_FILE_BYTES + 1


# ---- memory and threads ----


def test_large_jpegs_are_decoded_at_a_reduced_scale() -> None:
    data = encoded(Image.new("RGB", (7_300, 5_500), RED), "JPEG")
    loaded = load_image(data)
    assert loaded.size == (1_825, 1_375)
    assert min(loaded.size) >= DRAFT_SIDE
    assert np.abs(np.subtract(loaded.getpixel((9, 9)), RED)).max() < 5
    assert load_image(encoded(Image.new("RGB", (2_000, 2_000)), "JPEG")).size == (2_000, 2_000)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16", "F"])
def test_large_pictures_are_reduced_in_bands(mode: str) -> None:
    ramp = Image.linear_gradient("L").resize((3_100, 4_000))
    if mode in ("I;16", "F"):
        image = Image.fromarray((np.asarray(ramp, np.float32) * 257).astype({"F": "f4", "I;16": "u2"}[mode]))
    elif mode in ("LA", "RGBA"):
        image = ramp.convert(mode)
        image.putalpha(128)
    else:
        image = ramp.convert(mode)
    assert image.mode == mode
    whole = decoding._as_rgb(image).reduce(3)
    loaded = load_image(image)
    assert loaded.size == whole.size == (1_034, 1_334)
    assert np.abs(np.asarray(loaded, np.int16) - np.asarray(whole)).max() <= 2
    assert image.size == (3_100, 4_000)
