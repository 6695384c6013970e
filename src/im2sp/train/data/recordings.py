"""A table of recordings (CSV or JSON lines) in, checked rows out: which file speaks about which photo."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from im2sp.errors import Im2SpError, reason

TABLE_LIMIT = 256 * 2**20  # bytes
FIELD_LIMIT = 10_000  # characters
COLUMNS = ("image_id", "wav", "text")
_REQUIRED = frozenset(COLUMNS[:2])
_NAME_LIMIT = 180  # characters of an image id, which becomes part of file names


@dataclass(frozen=True)
class Recording:
    """One row: a recording that describes a photo."""

    image_id: str  # file name of the photo without ".jpg"
    index: int  # 0, 1, ... among the recordings of this photo, in the order of the table
    wav: PurePath  # inside the folder of recordings
    text: str  # what is said; empty where nobody wrote it down
    split: str = ""  # "train" or "dev", once it is known

    @property
    def caption_id(self) -> str:
        """`<image_id>_<index>`, as the captions of Flickr8k are called."""
        return f"{self.image_id}_{self.index}"


def read_recordings(table: Path) -> list[Recording]:
    """Rows of a `.csv` (with a header) or `.jsonl` table: `image_id`, `wav` and, for all rows or none, `text`.

    Raises:
        Im2SpError: it cannot be read, is too large or empty, or a row is not of this form; with the line.
    """
    rows = list(_rows(table, _cells(table)))
    if not rows:
        raise Im2SpError(f"{table} names no recording: give a line for each, with image_id and wav")
    spoken = sum(1 for row in rows if row.text)
    if spoken not in (0, len(rows)):
        raise Im2SpError(f"{table} has a text for {spoken} of {len(rows)} recordings: give it for all of them or none")
    return rows


def _cells(table: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """(number of the line, its cells by column) of every row."""
    readers = {".csv": _csv_cells, ".jsonl": _json_cells}
    if table.suffix.lower() not in readers:
        raise Im2SpError(f"{table}: a table of recordings is a .csv or a .jsonl file")
    try:
        if table.stat().st_size > TABLE_LIMIT:
            raise Im2SpError(f"{table} is larger than {TABLE_LIMIT >> 20} MiB, the limit for a table of recordings")
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Im2SpError(f"the table {table} cannot be read ({reason(error)})") from error
    return readers[table.suffix.lower()](table, text)


def _csv_cells(table: Path, text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if None in cells:
                raise Im2SpError(f"{table}, line {reader.line_num}: has more cells than the header")
            yield reader.line_num, {name: value for name, value in cells.items() if value}
    except csv.Error as error:
        raise Im2SpError(f"{table}, after line {reader.line_num}: is not CSV ({reason(error)})") from error


def _json_cells(table: Path, text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Im2SpError(f"{table}, line {number}: is not JSON") from error
        if not isinstance(cells, dict):
            raise Im2SpError(f"{table}, line {number}: is not an object with image_id and wav")
        yield number, cells


def _rows(table: Path, numbered: Iterable[tuple[int, Mapping[str, object]]]) -> Iterator[Recording]:
    seen: Counter[str] = Counter()
    for number, cells in numbered:
        where = f"{table}, line {number}"
        if unknown := sorted(set(cells) - set(COLUMNS)):
            raise Im2SpError(f"{where}: the column {unknown[0]!r} is not known; known are {', '.join(COLUMNS)}")
        if missing := sorted(_REQUIRED - set(cells)):
            raise Im2SpError(f"{where}: {missing[0]} is missing")
        for name, value in cells.items():
            if not isinstance(value, str) or len(value) > FIELD_LIMIT:
                raise Im2SpError(f"{where}: {name} is not a text of at most {FIELD_LIMIT} characters")
        image_id = _image_id(str(cells["image_id"]), where)
        row = Recording(
            image_id, seen[image_id], _inside(str(cells["wav"]), where), " ".join(str(cells.get("text", "")).split())
        )
        seen[image_id] += 1
        yield row


def _image_id(name: str, where: str) -> str:
    """An id that can be part of a file name and of a line in the split files."""
    image_id = name.strip().removesuffix(".jpg")
    if not image_id.isprintable() or not 0 < len(image_id) <= _NAME_LIMIT or set(image_id) & set("/\\#:"):
        raise Im2SpError(f"{where}: {name[:60]!r} cannot be the name of a photo")
    return image_id


def _inside(name: str, where: str) -> PurePath:
    """A path that stays in the folder of recordings."""
    path = PurePath(name)
    if not name.isprintable() or path.is_absolute() or not path.name or ".." in path.parts:
        raise Im2SpError(f"{where}: {name[:60]!r} is not a path inside the folder of recordings")
    return path
