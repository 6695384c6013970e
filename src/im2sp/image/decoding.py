"""The bytes of a picture file in, an RGB image out, in this process; `loading` decides in which one that is.

Images are untrusted: the dimensions in the header are checked before pixels are allocated.
"""

from __future__ import annotations

import importlib
import io
import math
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

from im2sp.errors import ImageError, reason
from im2sp.image.formats import HEAD_BYTES, READABLE, can_read, kind_of, readable_kinds, refusal, webp_canvas
from im2sp.image.slimming import EOI, jpeg_scan_end, slim_jpeg, slim_png

# Numpy is imported where it is needed: a process that only decodes starts in a third of the time without it.

MAX_PIXELS = 64_000_000  # width * height; a 50 megapixel photo passes, 20000 x 20000 does not
MAX_SIDE = 65_535  # pixels, the limit of JPEG; resizing needs memory in proportion to the longer side
DRAFT_SIDE = 1024  # pixels; larger pictures are reduced to a half, a third ... as long as both sides stay this long
_MOST_PIXELS = 2**24  # of the result: a panorama is reduced further
_MOST_PARTS = 2**17  # segments or chunks; the image is not looked for behind more
_BAND_PIXELS = 2**22  # pixels of a large picture that are made RGB at a time
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what makes the picture upright
_TIFF_SUBFILE, _TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH, _TIFF_SUB_IFDS, _DNG_VERSION = 254, 322, 323, 330, 50_706
_NO_MEMORY = ("out of memory", "could not create decoder")  # what the decoders of AVIF and WebP say
_OTHER_END = bytes(range(1, 255)) * 64  # in the place of a JPEG's end: shows whether pixels are missing there
_RESTARTS = b"".join(bytes((0xFF, 0xD0 + number)) + _OTHER_END[:2032] for number in range(8))


def file_kind(data: bytes, name: str) -> str:
    """Return the kind of a picture file. Raises ImageError for one that cannot be read."""
    kind = kind_of(data[:HEAD_BYTES])
    if kind is None:
        raise ImageError(f"{name}: is not a picture that im2sp can read ({readable_kinds()})")
    if not can_read(kind):
        raise ImageError(f"{name}: {refusal(kind)}")
    return kind


def decode(data: bytes, name: str) -> Image.Image:
    """Decode a picture file. Raises ImageError: of a kind that is not read, too large, damaged or cut short."""
    kind = file_kind(data, name)
    if kind == "WebP" and (canvas := webp_canvas(data[:30])):
        check_size(canvas, name)
    if kind == "JPEG":
        data = slim_jpeg(data, _MOST_PARTS).data
    elif kind == "PNG":
        data = slim_png(data, _MOST_PARTS).data
    try:
        return _decode(data, kind, name)
    except _TooLarge:
        raise
    except ImageError:
        image = _without_end(data, name) if kind == "JPEG" else None
        if image is None:
            raise
        return image


def _decode(data: bytes, kind: str, name: str) -> Image.Image:
    module, pillow_format = READABLE[kind]
    try:
        plugin: Any = importlib.import_module(module)  # which registers the format
        if kind == "HEIC":
            plugin.options.DECODE_THREADS = 1  # each would take its share of the memory
            plugin.register_heif_opener()
        elif kind == "AVIF":
            plugin.DEFAULT_MAX_THREADS = 1
        image = Image.open(io.BytesIO(data), formats=[pillow_format])
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: is damaged, or this Pillow was built without {kind}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _TooLarge(
            f"{name}: is too large (the limit is {MAX_PIXELS // 10**6} megapixels); make it smaller first"
        ) from error
    except Exception as error:  # decoders meet hostile bytes with nearly every exception there is
        raise _damaged(name, error) from error
    with image:
        return upright_rgb(image, name, drafted=True)


def _without_end(data: bytes, name: str) -> Image.Image | None:
    """Decode a JPEG whose end is missing, or is not that of a JPEG; None where pixels are missing too.

    These would be made of what stands after the last one: then the picture changes with it.
    """
    data = data[: jpeg_scan_end(data)]
    try:
        image, other = (_decode(data + end + EOI, "JPEG", name) for end in (b"", _OTHER_END + _RESTARTS))
    except ImageError:
        return None
    return image if image.tobytes() == other.tobytes() else None


def check_size(size: tuple[int, int], name: str) -> None:
    """Raise ImageError for an image without pixels or with too many."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: has no pixels ({width} x {height})")
    if width * height > MAX_PIXELS or max(size) > MAX_SIDE:
        raise _TooLarge(
            f"{name}: is too large ({width} x {height} pixels; the limits are {MAX_PIXELS // 10**6} megapixels "
            f"and {MAX_SIDE} pixels a side); make it smaller first"
        )


def upright_rgb(image: Image.Image, name: str, *, drafted: bool) -> Image.Image:
    """Check the size, decode, turn and convert to RGB. `drafted`: the image is ours, so its scale may be reduced."""
    check_size(image.size, name)
    try:
        _check_tiff(image, name)
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


def _check_tiff(image: Image.Image, name: str) -> None:
    """Refuse a TIFF whose tiles dwarf the picture (the decoder takes memory for a whole tile), or that is a RAW."""
    tags = getattr(image, "tag_v2", None) or {}
    if _DNG_VERSION in tags or (tags.get(_TIFF_SUBFILE) == 1 and _TIFF_SUB_IFDS in tags):  # all there is is a preview
        raise ImageError(f"{name}: {refusal('camera RAW')}")
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
    width, height = image.size
    factor = max(min(image.size) // DRAFT_SIDE, math.isqrt((width * height - 1) // _MOST_PIXELS) + 1)
    if image.mode in ("I", "F"):  # stretched by what is in the whole picture
        return _as_rgb(image.reduce(factor))
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.reduce(factor) if factor > 1 else image
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
    import numpy as np

    values = np.asarray(image)
    grey = (values >> 8).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _from_float_grey(image: Image.Image) -> Image.Image:
    """Convert 32-bit or floating point grey to RGB, stretched to its range; NaN becomes black."""
    import numpy as np

    values = np.asarray(image, dtype=np.float32)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    gain = 255 / (high - low) if high > low else 0.0
    grey = np.nan_to_num(values, nan=low, posinf=high, neginf=low) * np.float32(gain) - np.float32(low * gain)
    return Image.fromarray(np.rint(grey.clip(0, 255)).astype(np.uint8)).convert("RGB")


class _TooLarge(ImageError):
    pass


def _damaged(name: str, error: Exception) -> ImageError:
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY):
        return _TooLarge(f"{name}: takes more memory than a picture may; make it smaller first")
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return ImageError(f"{name}: is cut short; the file ends before the picture does")
    return ImageError(f"{name}: is damaged or of an unusual kind ({reason(error)})")
