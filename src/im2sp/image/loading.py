"""Image files in, RGB images out, then pixels for the image encoder.

Images are untrusted. What could take long or much memory is decoded in a process that is ended when it does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from im2sp.arrays import FloatArray
from im2sp.errors import ImageError, reason
from im2sp.files import open_regular, why_missing
from im2sp.image.decoding import check_size, decode, file_kind, upright_rgb
from im2sp.image.slimming import CHEAP_BYTES, CHEAP_PARTS, slim_jpeg, slim_png

ImageSource = str | Path | bytes | BinaryIO | Image.Image | npt.NDArray[np.uint8]

MAX_FILE_BYTES = 64 * 2**20  # larger files are refused unread
LONGEST = 32  # times the shorter side; of longer pictures that are cropped, the ends are dropped before the resize


def load_image(source: ImageSource, *, isolated: bool = False) -> Image.Image:
    """Load an image as RGB, upright, on white where it is transparent.

    Of an animation the first frame counts, of a PIL image its current one. 32-bit and floating point grey is stretched
    from its darkest to its brightest pixel. Images with both sides over 2 * DRAFT_SIDE come back reduced.

    Small JPEG and PNG files are decoded in this process, what may take longer in another (`isolation`), within 10 s of
    processor time and 500 MB. `isolated`: decode every file there.

    Raises ImageError: missing, too large, not a picture or of a kind that is not read, damaged, or beyond these limits.
    """
    if isinstance(source, Image.Image):
        return upright_rgb(source, "the given picture", drafted=False)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, bytes):
        return _from_bytes(source, "the given bytes", isolated)
    if isinstance(source, str | os.PathLike):
        return _from_bytes(*_read(source), isolated)
    if hasattr(source, "read"):
        return _from_bytes(*_drain(source), isolated)
    raise ImageError(
        f"{type(source).__name__} is not a picture; give a path, bytes, a binary file, a PIL picture or an array"
    )


def to_pixels(
    image: Image.Image,
    height: int,
    width: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    shorter_side: int | None = None,
    resampling: str = "bicubic",
) -> FloatArray:
    """Resize an RGB image and normalise it: float32 [3, height, width], (v / 255 - mean) / std of R, G and B.

    `shorter_side`: pixels that the shorter side is resized to before the middle is cropped; None: there is no crop.
    """
    rgb = image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    if shorter_side is not None:
        if max(rgb.size) > LONGEST * min(rgb.size):  # the rest of it would take memory for nothing
            rgb = rgb.crop(_middle(rgb.size, *(min(side, LONGEST * min(rgb.size)) for side in rgb.size)))
        # Rounded down as in transformers.
        whole = (shorter_side * rgb.width // min(rgb.size), shorter_side * rgb.height // min(rgb.size))
        rgb = rgb.resize(whole, Image.Resampling[resampling.upper()]).crop(_middle(whole, width, height))
    resized = np.asarray(rgb.resize((width, height), Image.Resampling[resampling.upper()]))
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    pixels = np.empty((3, height, width), dtype=np.float32)
    for channel in range(3):  # looked up: a fraction of the time that computing each takes
        normal = (levels - np.float32(mean[channel])) / np.float32(std[channel])
        np.take(normal, resized[:, :, channel], out=pixels[channel], mode="clip")  # "raise" would buffer the output
    return pixels


def seen_part(image: Image.Image, height: int, width: int, shorter_side: int | None) -> Image.Image:
    """Crop an image to the part that `to_pixels` looks at."""
    if shorter_side is None:
        return image
    scale = min(image.size) / shorter_side
    return image.crop(_middle(image.size, round(width * scale), round(height * scale)))


def _middle(size: tuple[int, int], width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the middle of a picture of this size (width, height)."""
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def _read(source: str | os.PathLike[str]) -> tuple[bytes, str]:
    """Read a file; return its bytes and its name."""
    name = os.fspath(source)
    try:
        with open_regular(Path(name), MAX_FILE_BYTES) as file:
            return file.read(MAX_FILE_BYTES + 1), name
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ImageError(f"{name}: cannot be read ({why_missing(name, error)})") from error


def _from_bytes(data: bytes, name: str, isolated: bool) -> Image.Image:
    if not data:
        raise ImageError(f"{name}: is empty (zero bytes)")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{name}: is larger than {MAX_FILE_BYTES // 2**20} MiB, the limit for a picture file")
    cheap = _is_cheap(data, file_kind(data, name))
    if cheap and not isolated:
        return decode(data, name)
    from im2sp.image.isolation import decode_isolated

    return decode_isolated(data, name, cheap=cheap)


def _is_cheap(data: bytes, kind: str) -> bool:
    slim = {"JPEG": slim_jpeg, "PNG": slim_png}.get(kind)
    return slim is not None and len(data) <= CHEAP_BYTES and slim(data, CHEAP_PARTS + 1).is_cheap


def _from_array(array: npt.NDArray[np.uint8]) -> Image.Image:
    shape_fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shape_fits or 0 in array.shape:
        raise ImageError(
            f"the given array is {array.dtype} {list(array.shape)}; a picture is uint8 [H, W, 3], [H, W, 4] or [H, W]"
        )
    check_size((array.shape[1], array.shape[0]), "the given array")
    return upright_rgb(Image.fromarray(np.ascontiguousarray(array)), "the given array", drafted=False)


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
