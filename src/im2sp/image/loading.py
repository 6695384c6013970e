"""Image files in, RGB images out, then pixels for the image encoder.

Images are untrusted: format, file size and the dimensions in the header are checked before pixels are allocated.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL import GifImagePlugin as _gif  # noqa: F401  importing a plugin registers its format
from PIL import JpegImagePlugin as _jpeg  # noqa: F401
from PIL import TiffImagePlugin as _tiff  # noqa: F401
from PIL import WebPImagePlugin as _webp  # noqa: F401

from im2sp.arrays import FloatArray
from im2sp.errors import ImageError, reason

Image.preinit()  # registers BMP and PNG; the rest of Pillow's formats stay unknown to this process unless asked for

ImageSource = str | Path | bytes | BinaryIO | Image.Image | npt.NDArray[np.uint8]

MAX_FILE_BYTES = 64 * 2**20  # larger files are refused unread
MAX_PIXELS = 64_000_000  # width * height; a 50 megapixel photo passes, 20000 x 20000 does not
MAX_SIDE = 65_535  # pixels, the limit of JPEG; resizing needs memory in proportion to the longer side
DRAFT_SIDE = 1024  # pixels; larger pictures are reduced to a half, a third ... as long as both sides stay this long
_BAND_PIXELS = 2**22  # pixels of a large picture that are made RGB at a time

# JPEG covers MPO (several JPEGs in one file: the first counts). Formats that run other programs (EPS) or have seldom
# used decoders are left out on purpose.
_WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_READABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what makes the picture upright
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 322, 323


def load_image(source: ImageSource) -> Image.Image:
    """Load an image as RGB, upright, on white where it is transparent.

    `source`: a path, the bytes of a file, a binary file object, a PIL image (its current frame) or an array uint8
    [H, W, 3], [H, W, 4] or [H, W]. Of an animation the first frame counts. 16-bit grey is scaled to 8 bits; 32-bit and
    floating point grey is stretched from its darkest to its brightest pixel. Images with both sides over
    2 * DRAFT_SIDE come back reduced; a JPEG is decoded at that scale, so a 40 megapixel photo takes a few megabytes (a
    progressive one three bytes a pixel, other formats at most four).

    Raises ImageError: missing, a folder, empty, too large, not a picture, damaged or cut short.
    """
    if isinstance(source, Image.Image):
        return _upright_rgb(source, "the given picture", drafted=False)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, bytes):
        return _from_bytes(source, "the given bytes")
    if isinstance(source, str | os.PathLike):
        return _from_path(Path(source))
    if hasattr(source, "read"):
        return _from_bytes(*_drain(source))
    raise ImageError(
        f"{type(source).__name__} is not a picture; give a path, bytes, a binary file, a PIL picture or an array"
    )


def to_pixels(image: Image.Image, height: int, width: int, mean: Sequence[float], std: Sequence[float]) -> FloatArray:
    """Resize (bicubic) an RGB image to exactly `height` x `width` and normalise it: float32 [3, height, width].

    A pixel v in 0..255 becomes (v / 255 - mean) / std, with one mean and one std for each of R, G, B.
    """
    rgb = image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    resized = np.asarray(rgb.resize((width, height), Image.Resampling.BICUBIC))
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    pixels = np.empty((3, height, width), dtype=np.float32)
    for channel in range(3):  # looked up: a fraction of the time that computing each takes
        normal = (levels - np.float32(mean[channel])) / np.float32(std[channel])
        np.take(normal, resized[:, :, channel], out=pixels[channel], mode="clip")  # "raise" would buffer the output
    return pixels


def _from_path(path: Path) -> Image.Image:
    name = str(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{name}: is a folder, not a picture")
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device could be read for ever
            raise ImageError(f"{name}: is not an ordinary file")
        _check_bytes(status.st_size, name)
        with path.open("rb") as file:
            return _decode(file, name)
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ImageError(f"{name}: cannot be read ({reason(error)})") from error


def _from_bytes(data: bytes, name: str) -> Image.Image:
    _check_bytes(len(data), name)
    return _decode(io.BytesIO(data), name)


def _from_array(array: npt.NDArray[np.uint8]) -> Image.Image:
    shape_fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shape_fits or 0 in array.shape:
        raise ImageError(
            f"the given array is {array.dtype} {list(array.shape)}; a picture is uint8 [H, W, 3], [H, W, 4] or [H, W]"
        )
    _check_size((array.shape[1], array.shape[0]), "the given array")
    return _upright_rgb(Image.fromarray(np.ascontiguousarray(array)), "the given array", drafted=False)


def _drain(file: BinaryIO) -> tuple[bytes, str]:
    """Read a file object, at most one byte more than allowed; return its bytes and a name for it."""
    named = getattr(file, "name", None)
    name = named if isinstance(named, str) else "the given file"
    pieces = bytearray()
    try:
        while len(pieces) <= MAX_FILE_BYTES:  # unbuffered files may return less than asked for
            piece = file.read(MAX_FILE_BYTES + 1 - len(pieces))
            if not piece:
                break
            pieces += piece
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be read ({reason(error)})") from error
    except TypeError as error:
        raise ImageError(f"{name}: was opened as text; open it in binary mode ('rb')") from error
    return bytes(pieces), name


def _check_bytes(size: int, name: str) -> None:
    if size == 0:
        raise ImageError(f"{name}: is empty (zero bytes)")
    if size > MAX_FILE_BYTES:
        raise ImageError(f"{name}: is larger than {MAX_FILE_BYTES // 2**20} MiB, the limit for a picture file")


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: has no pixels ({width} x {height})")
    if width * height > MAX_PIXELS or max(size) > MAX_SIDE:
        raise ImageError(
            f"{name}: is too large ({width} x {height} pixels; the limits are {MAX_PIXELS // 10**6} megapixels "
            f"and {MAX_SIDE} pixels a side); make it smaller first"
        )


def _decode(file: BinaryIO, name: str) -> Image.Image:
    canvas = _webp_canvas(file.read(30))
    if canvas is not None:
        _check_size(canvas, name)
    formats = [known for known in _WANTED if known in Image.OPEN]
    try:
        image = Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: is not a picture that im2sp can read ({_READABLE})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name}: is too large (the limit is {MAX_PIXELS // 10**6} megapixels); make it smaller first"
        ) from error
    except Exception as error:  # decoders meet hostile bytes with nearly every exception there is
        raise _damaged(name, error) from error
    with image:
        return _upright_rgb(image, name, drafted=True)


def _upright_rgb(image: Image.Image, name: str, *, drafted: bool) -> Image.Image:
    """Check the size, decode, turn and convert to RGB. `drafted`: the image is ours, so its scale may be reduced."""
    _check_size(image.size, name)
    try:
        _check_tile(image, name)
        if drafted:
            image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))  # only JPEG listens; square, since it may be turned below
        image.load()
        rgb = _in_bands(image) if image.width * image.height > _BAND_PIXELS else _as_rgb(image)
        turn = _TRANSPOSE.get(_orientation(image))
    except ImageError:
        raise
    except Exception as error:  # decoders meet hostile bytes with nearly every exception there is
        raise _damaged(name, error) from error
    if turn is None:
        return rgb
    upright = rgb.transpose(turn)
    upright.info = {}  # or its EXIF would have it turned again by whoever reads it next
    return upright


def _check_tile(image: Image.Image, name: str) -> None:
    """Refuse a TIFF whose tiles dwarf the picture: the decoder takes memory for a whole tile."""
    tags = getattr(image, "tag_v2", None) or {}
    if tags.get(_TIFF_TILE_WIDTH, 1) * tags.get(_TIFF_TILE_LENGTH, 1) > MAX_PIXELS:
        raise ImageError(f"{name}: is stored in tiles of over {MAX_PIXELS // 10**6} megapixels, which are refused")


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation after decoding: TIFF has turned itself by then, PNG may have it at its end."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged side information must not cost the picture
        return 1


def _in_bands(image: Image.Image) -> Image.Image:
    """Convert a large image to reduced RGB band by band: intermediate images would take several times its memory."""
    factor = max(1, min(image.size) // DRAFT_SIDE)
    if image.mode in ("I", "F"):  # stretched by what is in the whole picture
        return _as_rgb(image.reduce(factor))
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.reduce(factor) if factor > 1 else image
    width, height = image.size
    rows = max(1, _BAND_PIXELS // width // factor) * factor
    rgb = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top in range(0, height, rows):
        band = _as_rgb(image.crop((0, top, width, min(top + rows, height))))
        rgb.paste(band.reduce(factor), (0, top // factor))
    return rgb


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_16_bit_grey(image)
    if image.mode in ("I", "F"):
        return _from_float_grey(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGB", layer.size, "white")
        white.paste(layer, mask=layer)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit_grey(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey to RGB by the upper byte, as Pillow itself does for 16-bit colour."""
    values = np.asarray(image)
    grey = (values >> 8).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _from_float_grey(image: Image.Image) -> Image.Image:
    """Convert 32-bit or floating point grey to RGB, stretched to its range; NaN becomes black."""
    values = np.asarray(image, dtype=np.float32)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    gain = 255 / (high - low) if high > low else 0.0
    grey = np.nan_to_num(values, nan=low, posinf=high, neginf=low) * np.float32(gain) - np.float32(low * gain)
    return Image.fromarray(np.rint(grey.clip(0, 255)).astype(np.uint8)).convert("RGB")


def _damaged(name: str, error: Exception) -> ImageError:
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return ImageError(f"{name}: is cut short; the file ends before the picture does")
    return ImageError(f"{name}: is damaged or of an unusual kind ({reason(error)})")


def _webp_canvas(head: bytes) -> tuple[int, int] | None:
    """Read width and height from the first 30 bytes of a WebP file; None for others.

    Pillow hands WebP to a decoder that takes memory for the canvas on opening, before its size can be asked.
    """
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    kind = head[12:16]
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if kind == b"VP8L":
        packed = int.from_bytes(head[21:25], "little")
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return None
