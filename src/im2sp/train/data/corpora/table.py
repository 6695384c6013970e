"""Own recordings -> spoken captions: a table (CSV or JSON lines) of audio files, or a folder of them."""

from __future__ import annotations

import io
import zlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from im2sp.errors import Im2SpError, reason
from im2sp.train.data.corpora.items import MAX_TEXT, SPLITS, Corpus, Entry, Problem, Report, usable_text
from im2sp.train.data.corpora.lists import read_list

COLUMNS = ("wav", "image_id", "text", "speaker", "split")
SUFFIXES = (".flac", ".mp3", ".ogg", ".wav")
_NAME_LIMIT = 180  # characters of an image id, which becomes part of file names


@dataclass(frozen=True)
class OwnRecordings(Corpus):
    """Rows with the column `wav` and, where known, the others of COLUMNS.

    Without `image_id`, a recording is its own photo, by the name of its file. Without `split`, `dev_percent` of the
    photos are held out. Memory: the rows.
    """

    dev_percent: int = 10

    @abstractmethod
    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield where a row stands, and its cells by column."""

    def entries(self, report: Report) -> Iterator[Entry]:
        """Spoken captions in the order of the rows; caption ids are `<image_id>_<k>`."""
        usable = [(where, cells) for where, row in self.rows() if (cells := _usable(where, row, report))]
        undecided = {cells["image_id"] for _, cells in usable if not cells["split"]}
        drawn = sorted(undecided, key=lambda image_id: (zlib.crc32(image_id.encode()), image_id))
        held_out = set(drawn[: max(1, round(len(drawn) * self.dev_percent / 100))])
        seen: Counter[str] = Counter()
        for where, cells in usable:
            image_id, text = cells["image_id"], " ".join(cells["text"].split()) or None
            split = cells["split"] or ("dev" if image_id in held_out else "train")
            caption_id = f"{image_id}_{seen[image_id]}"
            seen[image_id] += 1
            yield Entry(where, image_id, f"{image_id}.jpg", caption_id, split, text, cells["wav"], cells["speaker"])


@dataclass(frozen=True)
class Table(OwnRecordings):
    """A `.csv` (with a header) or `.jsonl` file; paths start from its folder."""

    @property
    def recordings(self) -> Path:
        """The folder of the table."""
        return self.path.parent

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Raises Im2SpError: the table cannot be read, is no table, or has an unknown column."""
        kind, content = self.path.suffix.lower(), io.BytesIO(read_list(self.path))
        try:
            if kind == ".csv":
                texts = pa.csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()))
                table = pa.csv.read_csv(content, convert_options=texts)
            elif kind == ".jsonl":
                table = pa.json.read_json(content)
            else:
                raise Im2SpError(f"{self.path}: a table of recordings is a .csv or a .jsonl file")
        except pa.ArrowException as error:
            raise Im2SpError(f"the table {self.path} cannot be read ({reason(error)})") from error
        if unknown := sorted(set(table.column_names) - set(COLUMNS)):
            known = ", ".join(COLUMNS)
            raise Im2SpError(f"{self.path}: the column {unknown[0]!r} is not known; known are {known}")
        for number, row in enumerate(table.to_pylist(), 1):
            yield f"{self.path.name}, row {number}", row


@dataclass(frozen=True)
class Folder(OwnRecordings):
    """A folder of audio files, those in its folders included; there are no texts and no photos."""

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """In the order of their names; the folder of a file in the folder is its speaker."""
        for path in sorted(self.path.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                name = path.relative_to(self.path)
                speaker = name.parts[0] if len(name.parts) > 1 else ""
                image_id = "_".join(name.with_suffix("").parts)
                yield str(name), {"wav": name.as_posix(), "image_id": image_id, "speaker": speaker}


def _usable(where: str, row: dict[str, Any], report: Report) -> dict[str, str]:
    """The cells of a row, all of them there; none when it has no usable path, id or split."""
    cells = {name: usable_text(row.get(name), MAX_TEXT) or "" for name in COLUMNS}
    image_id = (cells["image_id"] or Path(cells["wav"]).stem).removesuffix(".jpg")
    if not cells["wav"]:
        report(Problem("malformed", where, f"{where} lacks a usable 'wav'"))
    elif not image_id.isprintable() or not 0 < len(image_id) <= _NAME_LIMIT or set(image_id) & set("/\\#:"):
        report(Problem("malformed", where, f"{where}: {image_id[:60]!r} cannot be the name of a photo"))
    elif cells["split"] and cells["split"] not in SPLITS:
        report(Problem("no-split", where, f"{where} has the unknown split {cells['split'][:40]!r}"))
    else:
        return cells | {"image_id": image_id, "split": SPLITS.get(cells["split"], "")}
    return {}
