"""The photos of one shard, as they lie in what was given: a description that travels to a worker and is read there."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar, Protocol

from im2sp.collections.fetching import Fetching, shown
from im2sp.collections.photo_tables import PhotoTable
from im2sp.collections.photos import NamedBytes, Photo, failed, photo_of, row_id
from im2sp.collections.tars import tar_photos
from im2sp.errors import ImageError, TableError
from im2sp.image.unit_table import UnitTable
from im2sp.image.units import ImageUnits

_FETCHES = 16  # photos that one worker fetches side by side


class Slice(Protocol):
    """Some photos, in a fixed order."""

    kind: ClassVar[str]

    @property
    def where(self) -> str:
        """The file in which they are, for messages."""
        ...

    @property
    def count(self) -> int | None:
        """How many they are; None where only reading tells."""
        ...

    def photos(self) -> Iterator[Photo]:
        """Read them. Raises ImageError or TableError where none, or no more of them, can be read."""
        ...


@dataclass(frozen=True)
class PhotoFiles:
    """Files on a disk that all workers see."""

    kind: ClassVar[str] = "files"
    files: tuple[tuple[str, str], ...]  # absolute path and image id

    @property
    def where(self) -> str:
        return self.files[0][0]

    @property
    def count(self) -> int | None:
        return len(self.files)

    def photos(self) -> Iterator[Photo]:
        for path, image_id in self.files:
            yield photo_of(image_id, path, Path(path))


@dataclass(frozen=True)
class WholeTar:
    """The pictures of a WebDataset tar."""

    kind: ClassVar[str] = "tar"
    path: str
    count: None = None

    @property
    def where(self) -> str:
        return self.path

    def photos(self) -> Iterator[Photo]:
        return tar_photos(Path(self.path))


@dataclass(frozen=True)
class TableRows:
    """Rows of a Parquet table of photos."""

    kind: ClassVar[str] = "table"
    path: str
    first: int  # from 0
    count: int
    private: bool = False  # may be fetched from private addresses

    @property
    def where(self) -> str:
        return self.path

    def photos(self) -> Iterator[Photo]:
        table = PhotoTable.open(Path(self.path))
        rows = enumerate(table.read(self.first, self.count), start=self.first)
        if not table.by_url:
            for number, (image_id, photo) in rows:
                yield _stored(image_id, row_id(self.path, number), photo)
            return
        waiting: deque[Future[Photo]] = deque()  # in the order of the rows
        fetch = partial(_fetched, Fetching(self.private))
        with ThreadPoolExecutor(_FETCHES) as pool:
            try:
                for number, (image_id, url) in rows:
                    waiting.append(pool.submit(fetch, image_id, row_id(self.path, number), url))
                    if len(waiting) >= _FETCHES:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()


@dataclass(frozen=True)
class UnitRows:
    """Rows of a table of image units."""

    kind: ClassVar[str] = "units"
    path: str
    first: int  # from 0
    count: int

    @property
    def where(self) -> str:
        return self.path

    def photos(self) -> Iterator[Photo]:
        table = UnitTable.open(Path(self.path))
        done = 0
        for ids, units in table.batches():
            for number in range(max(0, self.first - done), min(len(ids), self.first + self.count - done)):
                yield Photo(ids[number], ImageUnits(units[number], table.tokenizer))
            done += len(ids)
            if done >= self.first + self.count:
                return


def to_json(piece: Slice) -> str:
    """A slice as one line of ASCII, whatever the names of files hold."""
    assert isinstance(piece, _SLICES)
    return json.dumps({"kind": piece.kind, **asdict(piece)})


def from_json(text: str) -> Slice:
    """What `to_json` was given."""
    values = json.loads(text)
    kind = values.pop("kind")
    if kind == PhotoFiles.kind:
        return PhotoFiles(tuple((path, image_id) for path, image_id in values["files"]))
    (found,) = (each for each in _SLICES if each.kind == kind)
    return found(**values)


def read_whole(piece: Slice) -> Iterator[Photo]:
    """Every photo of a slice, whatever happens: what cannot be read any further ends in photos with that error."""
    done = 0
    try:
        for photo in piece.photos():
            done += 1
            yield photo
        sentence = f"{piece.where}: has fewer photos than it promises"
    except (ImageError, TableError) as error:
        sentence = str(error)
        yield from rest_of(piece, done, sentence)
        return
    if piece.count is not None:
        yield from rest_of(piece, done, sentence)


def rest_of(piece: Slice, done: int, sentence: str) -> Iterator[Photo]:
    """Photos in the place of those after the first `done`: as many as there are, or one where that is not known."""
    if isinstance(piece, PhotoFiles):
        for path, image_id in islice(piece.files, done, None):
            yield photo_of(image_id, path, error=sentence)
        return
    first = piece.first if isinstance(piece, TableRows | UnitRows) else 0
    yield from failed(first + done, 1 if piece.count is None else piece.count - done, piece.where, sentence)


def _stored(image_id: str, where: str, photo: bytes | str | None) -> Photo:
    if not isinstance(photo, bytes):
        return photo_of(image_id or where, where, error=f"{where}: has no photo")
    return photo_of(image_id, where, NamedBytes(photo, image_id or where))


def _fetched(fetching: Fetching, image_id: str, where: str, url: bytes | str | None) -> Photo:
    if not isinstance(url, str) or not url:
        return photo_of(image_id or where, where, error=f"{where}: has no URL, or one that is too long")
    try:
        return photo_of(image_id, where, NamedBytes(fetching.fetch(url), image_id or shown(url)))
    except ImageError as error:
        return photo_of(image_id, where, error=str(error))


_SLICES = (PhotoFiles, WholeTar, TableRows, UnitRows)
