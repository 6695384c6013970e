"""Watching a folder: its path in; photos that appear in it out, each when it has been written to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from im2sp.errors import ImageError
from im2sp.image.finding import files_below, kind_in_folder

INTERVAL = 0.25  # seconds between two scans
STABLE_SCANS = 2  # scans in a row that find a photo unchanged: then it is complete

_Version = tuple[int, int]  # nanoseconds of the last change, bytes


class FolderWatcher:
    """Iterates over pictures that appear in a folder or below it, or change there, without end.

    Photos that are there from the start are passed over. One that is still being written is waited for: until it is not
    empty and stays as it is for STABLE_SCANS scans.
    """

    def __init__(self, folder: Path, pause: Callable[[], None] = lambda: time.sleep(INTERVAL)) -> None:
        """`pause`: called between two scans. Raises ImageError when there is no such folder."""
        self._folder = folder
        self._pause = pause
        self._known = self._scan()  # files that were looked at, or were there before

    def __iter__(self) -> Iterator[Path]:
        """Yield paths, also of pictures that cannot be read; those that changed first before others.

        Raises ImageError when the folder goes away.
        """
        pending: dict[Path, tuple[_Version, int]] = {}  # new photos, each with the scans that found it unchanged
        while True:
            found = self._scan()
            self._known = {photo: version for photo, version in self._known.items() if photo in found}
            new = {photo: version for photo, version in found.items() if self._known.get(photo) != version}
            before, pending = pending, {}
            for photo, version in sorted(new.items(), key=lambda item: (item[1][0], item[0])):
                last, scans = before.get(photo, (None, 0))
                scans = scans + 1 if version == last else 0
                if scans < STABLE_SCANS or version[1] == 0:
                    pending[photo] = version, scans
                else:
                    self._known[photo] = version
                    if kind_in_folder(str(photo)) is not None:
                        yield photo
            self._pause()

    def _scan(self) -> dict[Path, _Version]:
        if not self._folder.is_dir():
            raise ImageError(f"{self._folder}: is not a folder that can be watched")
        found = {}
        for photo in map(Path, files_below(self._folder)):
            try:
                status = photo.stat()
            except OSError:  # gone again
                continue
            found[photo] = status.st_mtime_ns, status.st_size
        return found
