"""SeiT's token dumps: a gzip file of bytes and an index beside it -> the image units of each photo.

Reference formats, section 3: one byte a unit; a byte 255 says that 255 is to be added to the byte behind it, so there
are 510 values. The index, gzip of .npy, has the byte at which each photo starts.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from im2sp.errors import Im2SpError, reason

ESCAPE = 255
UNITS = 1024  # a photo: 32 x 32
INDEX_SUFFIX = ".index.npy"
MOST_PHOTOS = 20_000_000
PIECE = 2**20  # bytes that are unpacked at once

Units = npt.NDArray[np.uint16]


def read_seit_tokens(path: Path, units: int = UNITS, index: Path | None = None) -> Iterator[Units]:
    """The image units of every photo of a dump, in its order: uint16 [units], row by row. Memory stays flat.

    Args:
        path: the gzip file of bytes.
        units: how many each photo has.
        index: the file of offsets; without it the one beside the dump, `<path>.index.npy`.

    Raises:
        Im2SpError: one sentence for a file that is missing, damaged, cut short, or that the index does not fit.
    """
    starts = read_index(index or path.with_name(path.name + INDEX_SUFFIX))
    try:
        with gzip.open(path) as file:
            for photo, start in enumerate(starts):
                end = int(starts[photo + 1]) if photo + 1 < len(starts) else int(start) + 2 * units + 1
                last = photo + 1 == len(starts)
                # A photo takes at most two bytes a unit, so no index can make us take more memory than that.
                if not last and end - start > 2 * units:
                    raise _bad(path, f"gives photo {photo} {end - start} bytes, more than {units} units can take")
                data = file.read(end - int(start))
                if last and photo and not data:
                    return  # some indices end with the length of the dump
                yield _decode(data, units, path, photo)
    except (OSError, EOFError, zlib.error) as error:
        raise _bad(path, f"cannot be read ({reason(error)})") from error


def read_index(path: Path) -> npt.NDArray[np.int64]:
    """Offsets of the photos of a dump, int64 [photos], growing from 0. Raises Im2SpError as `read_seit_tokens` does."""
    limit = 8 * MOST_PHOTOS + PIECE
    try:
        with gzip.open(path) as file:
            raw = file.read(limit + 1)
        if len(raw) > limit:
            raise _bad(path, f"has more than {MOST_PHOTOS} photos")
        starts = _array(raw)
    except (OSError, EOFError, ValueError, SyntaxError, zlib.error, MemoryError) as error:
        raise _bad(path, f"is no gzip of a .npy file of numbers ({reason(error)[:100]})") from error
    if starts.dtype.kind not in "iu" or not len(starts):
        raise _bad(path, "is no list of offsets")
    offsets = starts.astype(np.int64)
    if offsets[0] != 0 or (np.diff(offsets) <= 0).any():
        raise _bad(path, "has offsets that do not grow from 0")
    return offsets


def _array(raw: bytes) -> npt.NDArray[np.int64]:
    """A .npy file of one row of numbers, looked at in place: numpy would take the memory that its header promises."""
    stream = io.BytesIO(raw)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError("an unknown version of .npy")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject or len(shape) != 1:
        raise ValueError("something other than a row of numbers")
    return np.frombuffer(raw, dtype, offset=stream.tell()).reshape(shape)


def _decode(data: bytes, units: int, path: Path, photo: int) -> Units:
    raw = np.frombuffer(data, dtype=np.uint8)
    escapes = raw == ESCAPE
    if len(raw) and (escapes[-1] or (escapes[1:] & escapes[:-1]).any()):
        raise _bad(path, f"has an escape without a value in photo {photo}")
    found = raw.astype(np.uint16)
    found[1:][escapes[:-1]] += ESCAPE
    found = found[~escapes]
    if len(found) != units:
        raise _bad(path, f"has {len(found)} units in photo {photo} where {units} were expected")
    return found


def _bad(path: Path, what: str) -> Im2SpError:
    return Im2SpError(f"{path} {what}: give the dump and the index as they were published")
