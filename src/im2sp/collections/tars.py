"""A WebDataset tar in, the pictures in it out, one after the other; nothing else in it is looked at.

Tars come from outside and are not trusted: they are read forwards only, and no header may take much memory.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from im2sp.collections.photos import NamedBytes, Photo, photo_of
from im2sp.errors import ImageError, reason
from im2sp.image.finding import IMAGE_SUFFIXES
from im2sp.image.loading import MAX_FILE_BYTES

SUFFIX = ".tar"


def tar_photos(path: Path) -> Iterator[Photo]:
    """The pictures of a tar by their suffix, in its order; the id is the name within the tar ("train/000012.jpg").

    Raises ImageError where the tar cannot be read, or not any further.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=_limited(file), mode="r:") as tar:
            end = -1
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # or all that were seen would stay in memory
                if member.offset <= end or member.size < 0:
                    raise tarfile.ReadError("its headers lead backwards")
                end = member.offset
                if _is_picture(member):
                    yield _photo(path, tar, member)
    except ImageError:
        raise
    except tarfile.TarError as error:
        raise ImageError(f"{path}: is no tar file, or is damaged or cut short ({reason(error)})") from error
    except Exception as error:  # headers are parsed with nearly every exception there is
        raise ImageError(f"{path}: cannot be read ({reason(error)})") from error


def _is_picture(member: tarfile.TarInfo) -> bool:
    name = os.path.basename(member.name)
    return member.isfile() and not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _photo(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Photo:
    image_id = os.fsencode(member.name).decode("utf-8", "backslashreplace")
    where = f"{path.name}/{member.offset}"
    if member.size > MAX_FILE_BYTES:
        too_large = f"{image_id}: is larger than {MAX_FILE_BYTES // 2**20} MiB, the limit for a picture file"
        return photo_of(image_id, where, error=too_large)
    opened = tar.extractfile(member)
    assert opened is not None  # it is a file
    return photo_of(image_id, where, NamedBytes(opened.read(), image_id))


class _Limited:
    """A binary file that gives no more at once than the largest picture."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_FILE_BYTES:
            raise tarfile.ReadError(f"it has a header of {size} bytes, which is refused")
        return self._file.read(size)


def _limited(file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, _Limited(file))
