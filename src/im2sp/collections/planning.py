"""Folders, photos, tars and Parquet tables in, shards out: the same ones for the same sources, each with its photos."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from im2sp.bundle import ImageTokenizer
from im2sp.collections import photo_tables, tars
from im2sp.collections.ledger import RUN
from im2sp.collections.photo_tables import PhotoTable, is_unit_table
from im2sp.collections.shards import UNITS
from im2sp.collections.slices import PhotoFiles, Slice, TableRows, UnitRows, WholeTar, to_json
from im2sp.errors import Im2SpError, TableError, reason
from im2sp.image.finding import IMAGE_SUFFIXES, Photos
from im2sp.image.unit_table import UnitTable
from im2sp.image.units import other_tokenizer

SHARD = 500  # photos, unless told otherwise
MOST_SHARD = 100_000


@dataclass(frozen=True)
class Reading:
    """How sources are read."""

    shard: int = SHARD  # photos of a shard; a tar is one shard, whatever it holds
    fetch: bool = False  # whether tables may name photos by URL
    private: bool = False  # whether these may be fetched from private addresses
    tokenizer: ImageTokenizer | None = None  # whose image units may be read


@dataclass(frozen=True)
class Plan:
    """All shards of some sources."""

    slices: tuple[Slice, ...]
    problems: tuple[str, ...]  # sentences: sources that cannot be read or hold no photos

    @property
    def photos(self) -> int | None:
        """How many photos there are; None where only reading the tars tells."""
        counts = [piece.count for piece in self.slices]
        return None if None in counts else sum(count or 0 for count in counts)

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of which photos are in which shard."""
        found = hashlib.sha256()
        for piece in self.slices:
            found.update(to_json(piece).encode("ascii") + b"\n")
        return found.hexdigest()


def plan_shards(sources: Sequence[Path], reading: Reading) -> Plan:
    """Share the photos of the sources out into shards.

    A source is a photo, a folder, a WebDataset tar, or a Parquet table with photos, with URLs or with image units. A
    folder that holds tars and tables stands for these, another one for all photos below it.

    Raises TableError for a table that cannot be read, or holds what is not asked for; Im2SpError for a folder with both
    photos and tars or tables, and for photos that would have the same id.
    """
    problems: list[str] = []
    alone, packed = [], []
    for source in sources:
        found = _packed_in(source) if source.is_dir() else [source]
        if found and all(_is_packed(each) for each in found):
            packed += found
        else:
            alone.append(source)
    slices: list[Slice] = []
    if alone:
        photos = Photos(alone)
        problems += photos.survey().problems
        slices += _of_files(photos, reading.shard)
    for path in dict.fromkeys(Path(os.path.abspath(each)) for each in packed):
        found_in = [WholeTar(str(path))] if path.suffix.lower() == tars.SUFFIX else list(_of_table(path, reading))
        slices += found_in
        if not found_in:
            problems.append(f"{path}: holds no photos")
        elif not path.is_file():
            raise Im2SpError(f"{path}: there is no such file")
    return Plan(tuple(slices), tuple(problems))


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() in (tars.SUFFIX, photo_tables.SUFFIX)


def _packed_in(folder: Path) -> list[Path]:
    """Tars and tables that lie in a folder itself; of a folder that im2sp wrote, the tables of image units."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and entry.name[0] != ".")
    except OSError as error:
        raise Im2SpError(f"{folder}: cannot be looked into ({reason(error)})") from error
    if RUN in names:  # what im2sp wrote there besides are no photos
        names = [name for name in names if name.startswith(f"{UNITS}-")]
    packed = [folder / name for name in names if _is_packed(Path(name))]
    if packed and any(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in names):
        raise Im2SpError(f"{folder}: holds photos and also {packed[0].name}; name the files that are meant")
    return packed


def _of_files(photos: Photos, size: int) -> Iterator[PhotoFiles]:
    seen: dict[str, str] = {}
    files: list[tuple[str, str]] = []
    for path, image_id in photos.named():
        absolute = os.path.abspath(path)
        if seen.setdefault(image_id, absolute) != absolute:
            raise Im2SpError(
                f"{seen[image_id]} and {absolute} would both be {image_id}: give the folder that holds both"
            )
        files.append((absolute, image_id))
        if len(files) == size:
            yield PhotoFiles(tuple(files))
            files = []
    if files:
        yield PhotoFiles(tuple(files))


def _of_table(path: Path, reading: Reading) -> Iterator[Slice]:
    if is_unit_table(path):
        units = UnitTable.open(path)
        if reading.tokenizer is None:
            raise TableError(f"{path}: holds image units; what is asked for here is photos")
        if not units.tokenizer.makes_the_units_of(reading.tokenizer):
            raise TableError(f"{path}: {other_tokenizer('its image units', units.tokenizer, reading.tokenizer)}")
        for first in range(0, units.rows, reading.shard):
            yield UnitRows(str(path), first, min(reading.shard, units.rows - first))
        return
    table = PhotoTable.open(path)
    if table.by_url and not reading.fetch:
        raise TableError(
            f"{path}: names photos by URL (column {table.photo_column}); give --fetch-urls to have them fetched"
        )
    for first in range(0, table.rows, reading.shard):
        count = min(reading.shard, table.rows - first)
        yield TableRows(str(path), first, count, private=reading.private and table.by_url)
