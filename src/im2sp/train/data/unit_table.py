"""The unit table: the one data format between stages (Parquet, readable by `datasets` and pyarrow)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from im2sp.errors import Im2SpError
from im2sp.files import atomic_write

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("image_units", pa.list_(pa.uint16())),  # null until the photo is tokenised
        ("caption_id", pa.string()),
        ("speech_units", pa.list_(pa.uint16())),  # 50 Hz, repeats kept
        ("split", pa.string()),
        ("speaker", pa.string()),
        ("duration_s", pa.float32()),
        ("text", pa.string()),  # for scoring only
        ("word_frames", pa.list_(pa.uint16())),  # frames of each word; null where nobody knows the words
    ]
)
METADATA_KEY = b"im2sp"
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class UnitRow:
    """One caption of a unit table."""

    image_id: str
    caption_id: str
    speech_units: np.ndarray  # uint16 [F], 50 Hz, repeats kept
    split: str
    speaker: str
    duration_s: float
    text: str
    image_units: np.ndarray | None = None
    word_frames: np.ndarray | None = None  # uint16 [words], frames of each word; None where nobody knows the words

    def words(self) -> list[np.ndarray]:
        """Units of each word, repeats kept; all units as one word where nobody knows the words."""
        if self.word_frames is None:
            return [self.speech_units]
        return np.split(self.speech_units, np.cumsum(self.word_frames.astype(np.int64))[:-1])


def write_unit_table(path: Path, rows: Iterable[UnitRow], description: dict[str, str | int]) -> None:
    """Write a table whole; `description` (which encoder made the units, say) goes into the file's metadata."""
    listed = list(rows)
    columns = {name: [getattr(row, name) for row in listed] for name in SCHEMA.names}
    schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(description).encode()})
    with atomic_write(path) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary, compression="zstd")


def unit_table_files(folder: Path, tables: str = "*") -> list[Path]:
    """All tables of a folder, in name order; `tables`: pattern of their names, without the ending.

    Raises:
        Im2SpError: there is no table, or tables of different encoders are mixed.
    """
    files = sorted(folder.glob(f"{tables}.parquet"))
    descriptions = {(pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"") for path in files}
    if not descriptions:
        raise Im2SpError(f"{folder} holds no unit table: run the stage `units` first")
    if len(descriptions) > 1:
        raise Im2SpError(f"{folder} mixes units of different speech encoders: delete the older tables")
    return files


def read_unit_table(path: Path, split: str | None = None) -> Iterator[UnitRow]:
    """The rows of a table one by one; ROWS_AT_ONCE of them are in memory."""
    names = ("image_id", "caption_id", "split", "speaker", "duration_s", "text", "word_frames")
    with pq.ParquetFile(path) as file:
        for table in file.iter_batches(ROWS_AT_ONCE, columns=[*names, "speech_units"]):
            units = table["speech_units"]
            offsets, values = units.offsets.to_numpy(), units.values.to_numpy()
            for row, cells in enumerate(zip(*(table[name].to_pylist() for name in names), strict=True)):
                image_id, caption_id, part, speaker, duration, text, words = cells
                if split is None or part == split:
                    piece = values[offsets[row] : offsets[row + 1]]
                    frames = None if words is None else np.array(words, np.uint16)
                    yield UnitRow(image_id, caption_id, piece, part, speaker, duration, text, word_frames=frames)


def iterate_unit_tables(folder: Path, split: str | None = None, tables: str = "*") -> Iterator[UnitRow]:
    """All rows of all tables of a folder, in name order. Raises Im2SpError as `unit_table_files` does."""
    for path in unit_table_files(folder, tables):
        yield from read_unit_table(path, split)
