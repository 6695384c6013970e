"""List the photos of a collection: folders, WebDataset tars or Parquet tables in; ids and places of photos out.

Sources come from outside and are not trusted: nothing but names is read, tars forwards only, and what tables promise is
checked before memory is taken for it.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from im2sp.bundle import ImageTokenizer
from im2sp.errors import Im2SpError, ImageError, OutputError, TableError, reason
from im2sp.files import NamedBytes
from im2sp.image.finding import IMAGE_SUFFIXES, Photos, Survey
from im2sp.image.loading import MAX_FILE_BYTES
from im2sp.image.unit_table import SUFFIX, UnitTables, check_id, read_ids
from im2sp.parquet import check_row_groups, opened_parquet, pyarrow_modules

TAR = ".tar"
ID_COLUMNS = ("image_id", "key", "__key__")  # the first that is there
IMAGE_COLUMNS = ("bytes", "image", "image_bytes", "jpg", "jpeg", "png", "webp")
UNIT_COLUMNS = ("image_id", "image_units")

_MOST_BYTES, _MOST_TEXT = 2**30, 2**28  # of a column in a row group, uncompressed
_WHAT = "table of photos"


class Place(NamedTuple):
    """Where a photo is: a file, or a part of a tar."""

    image_id: str
    path: bytes  # absolute; file names need not be text
    offset: int = 0
    size: int = -1  # bytes; -1: the whole file

    def read(self) -> Path | NamedBytes:
        """Return the path of a file, or the bytes of a part of a tar. Raises ImageError."""
        path = Path(os.fsdecode(self.path))
        if self.size < 0:
            return path
        if self.size > MAX_FILE_BYTES:
            most = f"{MAX_FILE_BYTES // 2**20} MiB, the limit for a picture file"
            raise ImageError(f"{self.image_id}: is larger than {most}")
        try:
            with path.open("rb") as file:
                file.seek(self.offset)
                return NamedBytes(file.read(self.size), self.image_id)
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({reason(error)})") from error


@dataclass(frozen=True)
class Collection:
    """Photos of one kind: `places`, or the rows of `tables`. Made by `list_photos`."""

    ids: frozenset[str]
    survey: Survey
    sources: tuple[str, ...]  # absolute paths
    places: tuple[Place, ...] = ()
    tables: tuple[Path, ...] = ()
    columns: tuple[str, str] = UNIT_COLUMNS  # of tables: id and photo
    tokenizer: ImageTokenizer | None = None  # of image units in the place of photos


def list_photos(sources: Sequence[Path], tokenizer: ImageTokenizer | None = None) -> Collection:
    """List the photos of the sources: photos and folders, tars, or tables; one kind at a time.

    A folder that holds tars or tables stands for these. `tokenizer`: of the image units that tables may hold.

    Raises TableError for an unreadable or unsuitable table, ImageError for a damaged tar, OutputError where two photos
    have one id, Im2SpError for sources of different kinds.
    """
    found = [path for source in sources for path in (_packed_in(source) if source.is_dir() else [source])]
    kinds = {"" if path.is_dir() else _packed(path) for path in found}
    if len(kinds) > 1:
        raise Im2SpError("give photos, tars or tables, one kind at a time")
    packed = tuple(dict.fromkeys(path.absolute() for path in found))
    if kinds == {SUFFIX}:
        return _list_tables(packed, tokenizer)
    if kinds == {TAR}:
        places = tuple(place for path in packed for place in _in_tar(path))
        survey = _survey(packed, len(places))
    else:
        photos = Photos(sources)
        places = tuple(Place(image_id, os.fsencode(path.absolute())) for path, image_id in photos.named())
        survey = photos.survey()
    ids = _unique_ids((place.image_id, os.fsdecode(place.path)) for place in places)
    return Collection(ids, survey, tuple(map(os.path.abspath, sources)), places)


def _survey(paths: tuple[Path, ...], count: int) -> Survey:
    """Complain of all tars or tables where none of them has a photo."""
    return Survey(count, () if count else tuple(f"{path}: holds no photos" for path in paths))


def _unique_ids(named: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Return the ids of (id, source) pairs.

    Raises OutputError where two are the same, TableError for an id that is empty or too long.
    """
    found: dict[str, str] = {}
    for image_id, source in named:
        if image_id in found:
            if found[image_id] == source:
                raise OutputError(f"{source}: has two photos that are called {image_id}")
            both = f"{found[image_id]} and {source} would both be {image_id} in the output"
            raise OutputError(f"{both}: give the folder that holds both")
        check_id(Path("the output"), image_id)
        found[image_id] = source
    return frozenset(found)


def _packed(path: Path) -> str:
    """Return the suffix of a tar or table, "" for other files."""
    suffix = path.suffix.lower()
    return suffix if suffix in (TAR, SUFFIX) else ""


def _packed_in(folder: Path) -> list[Path]:
    """Return the tars and tables in a folder itself, or the folder where there are none."""
    files = sorted(path for path in folder.iterdir() if path.name[0] != "." and path.is_file())
    found = [path for path in files if _packed(path)]
    if found and any(path.suffix.lower() in IMAGE_SUFFIXES for path in files):
        raise Im2SpError(f"{folder}: holds photos and also {found[0].name}; name the files that are meant")
    return found or [folder]


class _TarFile(io.FileIO):
    """A file that refuses to read more at once than the largest picture: headers may promise anything."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_FILE_BYTES:
            raise tarfile.ReadError(f"it has a header of {size} bytes, which is refused")
        return super().read(size) or b""


def _in_tar(path: Path) -> Iterator[Place]:
    """Read the headers of a tar; the id of a picture is its name there. Raises ImageError for a damaged tar."""
    try:
        with _TarFile(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            end = -1
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # all headers would stay in memory
                if member.offset <= end or member.size < 0:
                    raise tarfile.ReadError("its headers lead backwards")
                end = member.offset
                name = os.path.basename(member.name)
                is_picture = os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
                if is_picture and member.isreg() and not member.issparse():
                    image_id = os.fsencode(member.name).decode("utf-8", "backslashreplace")
                    yield Place(image_id, os.fsencode(path), member.offset_data, member.size)
    except Exception as error:  # parsing a hostile header raises nearly anything
        raise ImageError(f"{path}: is no tar file, or is damaged ({reason(error)})") from error


def _list_tables(paths: tuple[Path, ...], tokenizer: ImageTokenizer | None) -> Collection:
    columns = {path: _columns(path) for path in paths}
    for path in paths:
        if columns[path] != columns[paths[0]]:
            raise TableError(f"{paths[0]} and {path} have different columns of photos: give them one at a time")
    key, photo = columns[paths[0]]
    named: Iterable[tuple[str, str]]
    if (key, photo) == UNIT_COLUMNS:
        if tokenizer is None:
            raise TableError(f"{paths[0]}: holds image units; what is asked for here is photos")
        tables = UnitTables(paths, tokenizer).tables
        named = ((name, str(table.path)) for table in tables for ids, _ in table.batches() for name in ids)
    else:
        named = ((name, str(path)) for path in paths for name in _table_ids(path, key))
    ids = _unique_ids(named)
    return Collection(ids, _survey(paths, len(ids)), tuple(map(str, paths)), (), paths, (key, photo), tokenizer)


def _columns(path: Path) -> tuple[str, str]:
    """Return the columns of ids and of photos. Raises TableError where there are none."""
    with opened_parquet(path, _WHAT) as file:
        found = {field.name: field.type for field in file.schema_arrow}
        photo = next((name for name in IMAGE_COLUMNS if name in found and _holds_bytes(found[name])), None)
        if photo is None and UNIT_COLUMNS[1] in found:
            return UNIT_COLUMNS
        if photo is None:
            raise TableError(f"{path}: has no column of photos, which would be one of {', '.join(IMAGE_COLUMNS)}")
        key = next((name for name in ID_COLUMNS if name in found), None)
        if key is None:
            raise TableError(f"{path}: has no column of ids, which would be one of {', '.join(ID_COLUMNS)}")
        check_row_groups(path, file.metadata, {photo: _MOST_BYTES, key: _MOST_TEXT})
        return key, photo


def _holds_bytes(kind: Any) -> bool:
    """Return whether a type is binary, or a struct with `bytes`, as `datasets` writes images."""
    types = pyarrow_modules("tables of photos")[0].types
    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _table_ids(path: Path, column: str) -> Iterator[str]:
    done = 0
    with opened_parquet(path, _WHAT, read_dictionary=[column]) as file:
        for batch in file.iter_batches(columns=[column], use_threads=False):
            yield from read_ids(path, done, batch.column(0))
            done += len(batch)
