"""Own recordings -> spoken captions: a table (CSV or JSON lines) of audio files, or a folder of them."""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from im2sp.errors import Im2SpError, reason
from im2sp.train.data.corpora.items import (
    MAX_TEXT,
    SPLITS,
    CorpusItem,
    Problem,
    Report,
    path_inside,
    usable_text,
)

TABLE_LIMIT = 256 * 2**20  # bytes
COLUMNS = ("wav", "image_id", "text", "speaker", "split")
SUFFIXES = (".flac", ".mp3", ".ogg", ".wav")
_NAME_LIMIT = 180  # characters of an image id, which becomes part of file names


@dataclass(frozen=True)
class Table:
    """A `.csv` (with a header) or `.jsonl` file with the column `wav` and, where known, the others of COLUMNS.

    Paths start from `recordings`. Without `image_id`, a recording is its own photo, by the name of its file. Without
    `split`, `dev_percent` of the photos are held out. Memory: the table.
    """

    path: Path
    recordings: Path
    photos: Path
    dev_percent: int = 10

    def items(self, report: Report) -> Iterator[CorpusItem]:
        """Spoken captions in the order of the table; caption ids are `<image_id>_<k>`.

        Raises:
            Im2SpError: the table cannot be read, is too large, or has an unknown column.
        """
        rows = [(f"{self.path.name}, line {number}", cells) for number, cells in _read_rows(self.path)]
        return _items(rows, self.recordings, self.photos, self.dev_percent, report)


@dataclass(frozen=True)
class Folder:
    """A folder of audio files, those in its folders included; there are no texts and no photos."""

    path: Path
    dev_percent: int = 10

    def items(self, report: Report) -> Iterator[CorpusItem]:
        """Recordings in the order of their names; the folder of a file in the folder is its speaker."""
        files = sorted(path for path in self.path.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        names = [path.relative_to(self.path) for path in files]
        rows = [
            (str(name), {"wav": name.as_posix(), "image_id": "_".join(name.with_suffix("").parts), "speaker": speaker})
            for name in names
            for speaker in [name.parts[0] if len(name.parts) > 1 else ""]
        ]
        return _items(rows, self.path, self.path, self.dev_percent, report)


def _items(
    rows: Iterable[tuple[str, Mapping[str, object]]], recordings: Path, photos: Path, dev_percent: int, report: Report
) -> Iterator[CorpusItem]:
    usable = [row for row in ((where, _usable(where, cells, report)) for where, cells in rows) if row[1]]
    held_out = _held_out([cells["image_id"] for _, cells in usable if not cells["split"]], dev_percent)
    seen: Counter[str] = Counter()
    for where, cells in usable:
        image_id = cells["image_id"]
        recording = path_inside(recordings, cells["wav"])
        if recording is None:
            report(Problem("unsafe-path", where, f"{where}: the recording lies outside its folder"))
            continue
        split = cells["split"] or ("dev" if image_id in held_out else "train")
        caption_id = f"{image_id}_{seen[image_id]}"
        seen[image_id] += 1
        text = " ".join(cells["text"].split()) or None
        image = photos / f"{image_id}.jpg"
        yield CorpusItem(image_id, image, caption_id, recording, text, cells["speaker"].strip(), split)


def _usable(where: str, cells: Mapping[str, object], report: Report) -> dict[str, str]:
    """The cells of a row, all of them there; none when it has no usable path, id or split."""
    found = {name: usable_text(cells.get(name), MAX_TEXT) or "" for name in COLUMNS}
    image_id = (found["image_id"] or Path(found["wav"]).stem).strip().removesuffix(".jpg")
    if not image_id.isprintable() or not 0 < len(image_id) <= _NAME_LIMIT or set(image_id) & set("/\\#:"):
        report(Problem("malformed", where, f"{where}: {image_id[:60]!r} cannot be the name of a photo"))
    elif not found["wav"]:
        report(Problem("malformed", where, f"{where} lacks a usable 'wav'"))
    elif found["split"] and found["split"] not in SPLITS:
        report(Problem("no-split", where, f"{where} has the unknown split {found['split'][:40]!r}"))
    else:
        return found | {"image_id": image_id, "split": SPLITS.get(found["split"], "")}
    return {}


def _held_out(image_ids: Iterable[str], percent: int) -> set[str]:
    """Photos of the dev split: those with the smallest checksums, one at least."""
    drawn = sorted(set(image_ids), key=lambda image_id: (zlib.crc32(image_id.encode()), image_id))
    return set(drawn[: max(1, round(len(drawn) * percent / 100))])


def _read_rows(table: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """(line number, cells by column) of every row."""
    readers = {".csv": _read_csv, ".jsonl": _read_json_lines}
    if table.suffix.lower() not in readers:
        raise Im2SpError(f"{table}: a table of recordings is a .csv or a .jsonl file")
    try:
        if table.stat().st_size > TABLE_LIMIT:
            raise Im2SpError(f"{table} is larger than {TABLE_LIMIT >> 20} MiB, the limit for a table of recordings")
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Im2SpError(f"the table {table} cannot be read ({reason(error)})") from error
    for number, cells in readers[table.suffix.lower()](table, text):
        if unknown := sorted(map(str, set(cells) - set(COLUMNS))):
            raise Im2SpError(
                f"{table}, line {number}: the column {unknown[0]!r} is not known; known are {', '.join(COLUMNS)}"
            )
        yield number, cells


def _read_csv(table: Path, text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise Im2SpError(f"{table}, after line {reader.line_num}: is not CSV ({reason(error)})") from error


def _read_json_lines(table: Path, text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                cells = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise Im2SpError(f"{table}, line {number}: is not JSON") from error
            if not isinstance(cells, dict):
                raise Im2SpError(f"{table}, line {number}: is not a JSON object")
            yield number, cells
