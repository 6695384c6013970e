"""The unit table: the one data format between stages (Parquet, readable by `datasets` and pyarrow)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from im2sp.errors import Im2SpError
from im2sp.image.unit_table import METADATA_KEY
from im2sp.train.data.rows import read_rows, write_rows

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("caption_id", pa.string()),
        ("speech_units", pa.list_(pa.uint16())),  # 50 Hz, repeats kept
        ("split", pa.string()),
        ("speaker", pa.string()),
        ("duration_s", pa.float32()),
        ("text", pa.string()),  # for scoring only
    ]
)


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


def write_unit_table(path: Path, rows: Iterable[UnitRow], description: dict[str, str | int]) -> None:
    """Write a table; `description` tells which encoder or lexicon made the units."""
    write_rows(path, rows, SCHEMA, description)


def iterate_unit_tables(folder: Path, split: str | None = None) -> Iterator[UnitRow]:
    """Read the tables of a folder, in name order.

    Raises Im2SpError when there is no table, or tables of different encoders are mixed.
    """
    files = sorted(folder.glob("*.parquet"))
    descriptions = {(pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"") for path in files}
    if not descriptions:
        raise Im2SpError(f"{folder} holds no unit table: run the stage that makes units first")
    if len(descriptions) > 1:
        raise Im2SpError(f"{folder} mixes units of different speech encoders: delete the older tables")
    for path in files:
        yield from (row for row in read_rows(path, UnitRow, SCHEMA) if split in (None, row.split))
