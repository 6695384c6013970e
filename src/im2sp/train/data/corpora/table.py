"""Own recordings -> spoken captions: a table (CSV or JSON lines) of audio files, or a folder of them."""

from __future__ import annotations

import io
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from im2sp.errors import Im2SpError, reason
from im2sp.train.data.corpora.items import MAX_TEXT, SPLITS, Entry, Problem, Report, usable_text
from im2sp.train.data.corpora.lists import read_list

COLUMNS = ("wav", "image_id", "text", "speaker", "split")
SUFFIXES = (".flac", ".mp3", ".ogg", ".wav")
_NAME_LIMIT = 180  # characters of an image id, which becomes part of file names


def own_recordings(path: Path, report: Report, dev_percent: int) -> Iterator[Entry]:
    """Spoken captions of a table or a folder, in order; caption ids are `<image_id>_<k>`.

    Without `image_id`, a recording is its own photo, by the name of its file. Without `split`, `dev_percent` of the
    photos are held out. Memory: the rows.

    Raises Im2SpError as `_table`.
    """
    rows = _folder(path) if path.is_dir() else _table(path)
    usable = [(where, cells) for where, row in rows if (cells := _usable(where, row, report))]
    undecided = {cells["image_id"] for _, cells in usable if not cells["split"]}
    drawn = sorted(undecided, key=lambda image_id: (zlib.crc32(image_id.encode()), image_id))
    held_out = set(drawn[: max(1, round(len(drawn) * dev_percent / 100))])
    seen: Counter[str] = Counter()
    for where, cells in usable:
        image_id, text = cells["image_id"], " ".join(cells["text"].split()) or None
        split = cells["split"] or ("dev" if image_id in held_out else "train")
        caption_id = f"{image_id}_{seen[image_id]}"
        seen[image_id] += 1
        yield Entry(where, image_id, f"{image_id}.jpg", caption_id, split, text, cells["wav"], cells["speaker"])


def _table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a row of a `.csv` (with a header) or `.jsonl` file stands, and its cells by column.

    Raises Im2SpError: the table cannot be read, is no table, or has an unknown column.
    """
    kind, content = path.suffix.lower(), io.BytesIO(read_list(path))
    try:
        if kind == ".csv":
            texts = pa.csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()))
            table = pa.csv.read_csv(content, convert_options=texts)
        elif kind == ".jsonl":
            table = pa.json.read_json(content)
        else:
            raise Im2SpError(f"{path}: a table of recordings is a .csv or a .jsonl file")
    except pa.ArrowException as error:
        raise Im2SpError(f"the table {path} cannot be read ({reason(error)})") from error
    if unknown := sorted(set(table.column_names) - set(COLUMNS)):
        raise Im2SpError(f"{path}: the column {unknown[0]!r} is not known; known are {', '.join(COLUMNS)}")
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"{path.name}, row {number}", row


def _folder(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Audio files in the order of their names; the folder of a file in the folder is its speaker."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            name = path.relative_to(folder)
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
