"""Watching: a folder in, the photos that appear in it out, each when it has been written to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from im2sp.errors import ImageError
from im2sp.image.finding import Photos

INTERVAL = 0.25  # seconds between two looks
CALM_LOOKS = 2  # looks in a row that find a photo as it was: then it is taken for complete


@dataclass(frozen=True)
class _Version:
    """What differs when a file has been written to."""

    changed: int  # nanoseconds
    size: int  # bytes


class Watch:
    """The photos that appear in a folder or below it, or change there; those of now are no news.

    Iterating never ends. A photo that is still being written is waited for: until it stays as it is for CALM_LOOKS
    looks, and is not empty.
    """

    def __init__(self, folder: Path, pause: Callable[[], None] = lambda: time.sleep(INTERVAL)) -> None:
        """`pause`: called between two looks. Raises ImageError when there is no such folder."""
        self._folder = folder
        self._pause = pause
        self._known = self._look()  # photos that have been given, or were there before

    def __iter__(self) -> Iterator[Path]:
        """Paths, those that changed first before others. Raises ImageError when the folder goes away."""
        calm: dict[Path, tuple[_Version, int]] = {}  # of photos that are news: looks that found them the same
        while True:
            found = self._look()
            self._known = {photo: version for photo, version in self._known.items() if photo in found}
            news = {photo: version for photo, version in found.items() if self._known.get(photo) != version}
            before, calm = calm, {}
            for photo, version in sorted(news.items(), key=lambda item: (item[1].changed, item[0])):
                last, looks = before.get(photo, (None, 0))
                looks = looks + 1 if version == last else 0
                if looks < CALM_LOOKS or version.size == 0:
                    calm[photo] = version, looks
                else:
                    self._known[photo] = version
                    yield photo
            self._pause()

    def _look(self) -> dict[Path, _Version]:
        if not self._folder.is_dir():
            raise ImageError(f"{self._folder}: is not a folder that can be watched")
        found = {}
        for photo in Photos([self._folder]):
            try:
                status = photo.stat()
            except OSError:  # gone again
                continue
            found[photo] = _Version(status.st_mtime_ns, status.st_size)
        return found
